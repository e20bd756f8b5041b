//! The memory of Roost's binaries: which allocator, and pages of which size.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps the kernel from giving this process huge pages, whether by itself or because the allocator
/// asks for them; what it starts inherits that. First thing in `main`.
///
/// The first touch of a huge page clears 2 MiB, and whoever touches it waits: milliseconds where a
/// hypervisor has to find that memory first. A table that grows in the middle of a batch touches
/// several.
pub fn in_small_pages() {
    // A kernel that refuses has no huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(test)]
mod tests {
    use std::fs;

    fn kilobytes_in_huge_pages() -> u64 {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let lines = smaps.lines().filter_map(|line| line.strip_prefix("AnonHugePages:"));
        lines.map(|line| line.trim_end_matches("kB").trim().parse::<u64>().unwrap()).sum()
    }

    #[test]
    fn what_is_touched_from_now_on_is_in_small_pages() {
        super::in_small_pages();
        // The test runner allocated before.
        let before = kilobytes_in_huge_pages();
        let touched = vec![1_u8; 32 << 20];
        assert_eq!(kilobytes_in_huge_pages(), before, "with {} bytes touched", touched.len());
    }
}
