//! What this process uses, as the kernel counts it.

/// Memory and processor time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUsage {
    /// Memory in RAM.
    pub resident_bytes: u64,
    /// Of it, what no file backs.
    pub private_bytes: u64,
    /// Processor time since the start, in user and kernel mode, in seconds.
    pub cpu_s: f64,
}

/// Page size of the platforms Roost runs on (x86-64, and aarch64 as distributions build it).
const PAGE_BYTES: u64 = 4096;
/// Clock ticks a second in /proc: USER_HZ is 100 on every Linux architecture but Alpha.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessUsage {
    /// As of now; `None` without /proc.
    pub fn read() -> Option<Self> {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&statm, &stat)
    }

    fn parse(statm: &str, stat: &str) -> Option<Self> {
        // proc(5): size resident shared ...
        let mut pages = statm.split_whitespace().skip(1).map(str::parse::<u64>);
        let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        // proc(5): the name, field 2, may hold anything but ends with the last parenthesis; utime and stime are fields 14 and 15.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut ticks = after_name.split_whitespace().skip(11).map(str::parse::<f64>);
        let cpu_s = (ticks.next()?.ok()? + ticks.next()?.ok()?) / TICKS_PER_SECOND;
        Some(Self {
            resident_bytes: resident * PAGE_BYTES,
            private_bytes: resident.saturating_sub(shared) * PAGE_BYTES,
            cpu_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let stat = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        let usage = ProcessUsage::parse("1000 300 100 5 0 50 0", stat).unwrap();
        assert_eq!((usage.resident_bytes, usage.private_bytes), (300 * 4096, 200 * 4096));
        assert!((usage.cpu_s - 3.0).abs() < 1e-9);
        assert_eq!(ProcessUsage::parse("", ""), None);
        assert!(ProcessUsage::read().unwrap().resident_bytes > 0);
    }
}
