//! Which driver this machine allows, found out by doing: a ring with every flag and table a shard uses, and a
//! NOP through it.
//!
//! Docker's default seccomp profile, `kernel.io_uring_disabled` and old kernels each forbid io_uring at a
//! different step, so the probe reports step by step; `roost doctor` prints them, the start line has the
//! summary.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use io_uring::opcode;
use serde::{Deserialize, Serialize};

use super::buffer_ring::BufferRing;
use super::ring::Ring;

/// What the configuration asks for: `io.driver = auto | io_uring | epoll`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverChoice {
    /// io_uring when the probe succeeds, else epoll.
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll, without a probe.
    Epoll,
}

impl FromStr for DriverChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::IoUring),
            "epoll" => Ok(Self::Epoll),
            other => Err(format!("`{other}` is no driver: choose auto, io_uring or epoll")),
        }
    }
}

/// A driver for real sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// [`UringIo`](super::uring::UringIo)
    IoUring,
    /// [`EpollIo`](super::epoll::EpollIo)
    Epoll,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

impl Driver {
    /// Decides once, at start; the text says which driver and why.
    ///
    /// # Errors
    /// When io_uring was demanded and the probe failed: the text says at which step and what to do.
    pub fn choose(choice: DriverChoice) -> Result<(Self, String), String> {
        if choice == DriverChoice::Epoll {
            return Ok((Self::Epoll, "epoll: chosen by configuration".into()));
        }
        let report = probe();
        match (report.failure(), choice) {
            (None, _) => Ok((Self::IoUring, format!("io_uring: probe succeeded ({report})"))),
            (Some(failure), DriverChoice::Auto) => {
                Ok((Self::Epoll, format!("epoll: no io_uring here, {failure}")))
            }
            (Some(failure), DriverChoice::IoUring | DriverChoice::Epoll) => Err(format!(
                "io_uring was demanded (io.driver) but {failure}. With io.driver = auto the gateway \
                 falls back to epoll"
            )),
        }
    }
}

/// What the probe tried, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeStep {
    /// A ring with SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG and SUBMIT_ALL (Linux 6.1).
    Setup,
    /// A table of direct descriptors (5.19).
    DirectDescriptors,
    /// A ring of provided buffers (5.19).
    BufferRing,
    /// A NOP, submitted and completed.
    Nop,
}

impl fmt::Display for ProbeStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "ring setup",
            Self::DirectDescriptors => "direct descriptors",
            Self::BufferRing => "buffer ring",
            Self::Nop => "no-op round trip",
        })
    }
}

/// Outcome of the probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// `uname -r`.
    pub kernel: String,
    /// `kernel.io_uring_disabled`, when the kernel has it (6.6): 0 allowed, 1 privileged only, 2 forbidden.
    pub io_uring_disabled: Option<u8>,
    /// Each step up to the first that failed.
    pub steps: Vec<(ProbeStep, io::Result<()>)>,
}

impl ProbeReport {
    /// Why io_uring cannot be used and what to do; `None` when it can.
    pub fn failure(&self) -> Option<String> {
        let (step, error) = self
            .steps
            .iter()
            .find_map(|(step, outcome)| outcome.as_ref().err().map(|error| (step, error)))?;
        Some(format!("{step} failed: {error}; {}", self.advice(*step, error)))
    }

    fn advice(&self, step: ProbeStep, error: &io::Error) -> String {
        let disabled = self.io_uring_disabled.unwrap_or(0);
        match error.raw_os_error() {
            Some(libc::EPERM) if disabled > 0 => {
                format!("kernel.io_uring_disabled is {disabled}, `sysctl kernel.io_uring_disabled=0` allows it")
            }
            Some(libc::EPERM) => {
                "a seccomp profile forbids it (Docker's default does): allow the io_uring_* system calls".into()
            }
            Some(libc::ENOSYS) => "this kernel is built without io_uring".into(),
            Some(libc::EINVAL) => format!("kernel {} is too old, 6.1 or newer is needed", self.kernel),
            Some(libc::ENOMEM) if step == ProbeStep::Setup => {
                "the limit of locked memory is too low: raise RLIMIT_MEMLOCK (`ulimit -l`)".into()
            }
            Some(libc::EMFILE) => "too few descriptors: raise RLIMIT_NOFILE (`ulimit -n`)".into(),
            _ => "`strace -e trace=/io_uring` shows more".into(),
        }
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        let good = self.steps.iter().filter(|(_, outcome)| outcome.is_ok());
        good.map(|(step, _)| step)
            .filter(|step| matches!(step, ProbeStep::DirectDescriptors | ProbeStep::BufferRing))
            .try_for_each(|step| write!(f, ", {step}"))
    }
}

/// Tries io_uring as a shard would use it.
pub fn probe() -> ProbeReport {
    let read = |path| std::fs::read_to_string(path).ok();
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let disabled = read("/proc/sys/kernel/io_uring_disabled");
    let mut report = ProbeReport {
        kernel: kernel.trim().into(),
        io_uring_disabled: disabled.and_then(|text| text.trim().parse().ok()),
        steps: Vec::new(),
    };
    // SINGLE_ISSUER binds a ring to its thread; a thread of its own leaves the caller's as it was.
    match std::thread::spawn(try_steps).join() {
        Ok(steps) => report.steps = steps,
        Err(_) => {
            let error = io::Error::other("the probe panicked");
            report.steps.push((ProbeStep::Setup, Err(error)));
        }
    }
    report
}

fn try_steps() -> Vec<(ProbeStep, io::Result<()>)> {
    let mut steps = Vec::new();
    let mut ring = match Ring::new(8, 16) {
        Ok(ring) => ring,
        Err(error) => return vec![(ProbeStep::Setup, Err(error))],
    };
    steps.push((ProbeStep::Setup, Ok(())));
    steps.push((ProbeStep::DirectDescriptors, ring.submitter().register_files_sparse(8)));
    let buffers = BufferRing::register(&ring, 2, 4096);
    steps.push((
        ProbeStep::BufferRing,
        buffers.as_ref().map(drop).map_err(|error| {
            io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
        }),
    ));
    steps.push((ProbeStep::Nop, round_trip(&mut ring)));
    drop(ring);
    drop(buffers);
    steps
}

#[allow(unsafe_code)]
fn round_trip(ring: &mut Ring) -> io::Result<()> {
    const USER_DATA: u64 = 42;
    // SAFETY: a NOP points at nothing.
    unsafe { ring.push(opcode::Nop::new().build().user_data(USER_DATA)) };
    let mut cqes = Vec::new();
    ring.enter(Some(Duration::from_secs(1)), &mut cqes)?;
    match cqes.as_slice() {
        [cqe] if cqe.user_data == USER_DATA && cqe.result == 0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ETIME)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: ProbeStep, errno: i32, disabled: u8) -> ProbeReport {
        ProbeReport {
            kernel: "5.10.0".into(),
            io_uring_disabled: Some(disabled),
            steps: vec![(step, Err(io::Error::from_raw_os_error(errno)))],
        }
    }

    #[test]
    fn every_failure_says_what_to_do() {
        let check = |step, errno, disabled, expected: &str| {
            let failure = report(step, errno, disabled).failure().unwrap();
            assert!(failure.contains(expected), "{failure}");
        };
        check(ProbeStep::Setup, libc::EPERM, 2, "sysctl kernel.io_uring_disabled=0");
        check(ProbeStep::Setup, libc::EPERM, 0, "seccomp");
        check(ProbeStep::Setup, libc::ENOSYS, 0, "without io_uring");
        check(ProbeStep::Setup, libc::EINVAL, 0, "5.10.0 is too old");
        check(ProbeStep::DirectDescriptors, libc::EMFILE, 0, "RLIMIT_NOFILE");
    }

    #[test]
    fn epoll_by_configuration_needs_no_probe() {
        let (driver, reason) = Driver::choose(DriverChoice::Epoll).unwrap();
        assert_eq!((driver, reason.as_str()), (Driver::Epoll, "epoll: chosen by configuration"));
        assert!("kqueue".parse::<DriverChoice>().unwrap_err().contains("auto, io_uring or epoll"));
    }

    #[test]
    fn auto_agrees_with_the_probe() {
        let (driver, reason) = Driver::choose(DriverChoice::Auto).unwrap();
        let expected = if probe().failure().is_none() { Driver::IoUring } else { Driver::Epoll };
        assert_eq!(driver, expected, "{reason}");
        assert!(reason.starts_with(&driver.to_string()), "{reason}");
    }
}
