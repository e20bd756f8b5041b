//! What a service needs of this machine: its package, its ports, time to become ready.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Below the range from which the kernel takes ports of outgoing connections: a restarted service finds its ports free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `is_so`.
///
/// # Panics
/// When it is not so within the deadline.
pub fn wait_until(what: &str, deadline: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Installs the Debian package when `program` is missing.
///
/// # Panics
/// When it cannot be installed.
pub fn need_package(program: &str, package: &str) {
    // One installation at a time on this machine; the next one finds the program. Not before: a package's program exists long before
    // its users and folders do.
    let lock = File::create(std::env::temp_dir().join("roost-testing-install.lock"))
        .expect("a lock file in the temporary folder");
    lock.lock().expect("the lock of the installation");
    if Path::new(program).exists() {
        return;
    }
    eprintln!("installing {package}");
    let mut is_installed = apt_get(&["install", "-y", "--no-install-recommends", package]);
    if !is_installed {
        apt_get(&["update"]);
        is_installed = apt_get(&["install", "-y", "--no-install-recommends", package]);
    }
    assert!(
        is_installed && Path::new(program).exists(),
        "{program} is missing and `apt-get install {package}` did not bring it: install it by hand"
    );
}

static SCRATCH: OnceLock<PathBuf> = OnceLock::new();

/// Services of this process make their scratch folders in `folder` from now on, instead of the temporary folder. Their system users must
/// be able to enter it. The first call counts.
pub fn make_scratch_folders_in(folder: &Path) {
    _ = SCRATCH.set(folder.to_owned());
}

/// A scratch folder of a service, gone with the value.
pub(crate) fn scratch_folder(service: &str) -> TempDir {
    scratch_folder_in(&SCRATCH.get().cloned().unwrap_or_else(std::env::temp_dir), service)
}

/// The same in this folder.
pub(crate) fn scratch_folder_in(parent: &Path, service: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("roost-{service}-"))
        .tempdir_in(parent)
        .expect("a scratch folder")
}

/// Gives a scratch folder to the system user that a service runs as.
///
/// # Panics
/// When that cannot be done: it takes root.
pub fn own(folder: &Path, user: &str) {
    let done = Command::new("chown").args(["-R", &format!("{user}:")]).arg(folder).status();
    assert!(done.is_ok_and(|status| status.success()), "chown {user} {}", folder.display());
}

fn apt_get(arguments: &[&str]) -> bool {
    // Single-user runlevel: invoke-rc.d then does not start the package's own instance.
    let done = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

/// A port that no other service of these tests gets as long as this value lives, whether something listens there or not.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// A free one.
    ///
    /// # Panics
    /// When there is none.
    pub fn free() -> Self {
        let folder = std::env::temp_dir().join("roost-testing-ports");
        std::fs::create_dir_all(&folder).expect("a folder for claims of ports");
        let count = PORTS.end - PORTS.start;
        let first = u16::try_from(std::process::id() % u32::from(count)).expect("below the count");
        for step in 0..count {
            let number = PORTS.start + (first + step) % count;
            let Ok(claim) = File::create(folder.join(number.to_string())) else { continue };
            if claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Self { number, _claim: claim };
            }
        }
        panic!("no free port in {PORTS:?}");
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Whether somebody accepts connections there.
    pub fn is_open(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.number)).is_ok()
    }
}
