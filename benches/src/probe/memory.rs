//! Memory of a process and of the kernel, and the slope of either over a number of connections.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};

/// Private bytes of a process: `Private_Clean + Private_Dirty` of `/proc/PID/smaps_rollup`.
pub fn private_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kib: u64 = text
        .lines()
        .filter(|line| line.starts_with("Private_Clean") || line.starts_with("Private_Dirty"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    ensure!(kib > 0, "{path} shows no private memory: is the process gone?");
    Ok(kib * 1024)
}

/// One field of `/proc/meminfo`.
pub fn meminfo_kib(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("/proc/meminfo has no {field}"))
}

/// Caches whose growth belongs to files and directories, not to connections. `dentry` and `filp`
/// are here too: every socket has exactly one of each, so they are counted by `sock_inode_cache`,
/// else any compiler running beside a measurement would be charged to the connections.
const FILE_CACHES: [&str; 12] = [
    "dentry",
    "filp",
    "inode_cache",
    "ext4_",
    "btrfs_",
    "xfs_",
    "jbd2_",
    "buffer_head",
    "radix_tree_node",
    "xa_node",
    "proc_inode_cache",
    "shmem_inode_cache",
];

/// Caches of processes and their memory.
const PROCESS_CACHES: [&str; 16] = [
    "vm_area_struct",
    "vma_lock",
    "anon_vma",
    "task_struct",
    "mm_struct",
    "signal_cache",
    "sighand_cache",
    "files_cache",
    "fs_cache",
    "pid",
    "cred",
    "maple_node",
    "task_delay",
    "uts_namespace",
    "sgpool",
    "bio",
];

/// Kernel bytes of connections now, machine-wide: objects in use times their share of a slab, over
/// the caches of `/proc/slabinfo` (root only) without those of files and processes, plus one `filp`
/// and one `dentry` for each socket.
///
/// An object's share is the slab's pages over the objects that fit. Slabs are not counted as they
/// are: a partly filled one is there for the next connection. What this leaves out (tables of
/// descriptors, pages that are no slab) shows in [`used_bytes`].
pub fn kernel_connection_bytes() -> Result<u64> {
    let caches = slab_caches()?;
    let size = |name: &str| caches.get(name).map_or(0, |cache| cache.object_bytes);
    let sockets = caches.get("sock_inode_cache").map_or(0, |cache| cache.objects);
    let excluded = |name: &str| {
        FILE_CACHES.iter().chain(&PROCESS_CACHES).any(|prefix| name.starts_with(prefix))
    };
    let counted: u64 = caches
        .iter()
        .filter(|(name, _)| !excluded(name))
        .map(|(_, cache)| cache.objects * cache.object_bytes)
        .sum();
    Ok(counted + sockets * (size("filp") + size("dentry")))
}

/// TCP sockets of the machine, `alloc` in `/proc/net/sockstat`.
pub fn tcp_sockets() -> Result<u64> {
    let path = "/proc/net/sockstat";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("TCP:")?.split_once(" alloc "))
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("{path} has no TCP alloc"))
}

/// All memory in use on the machine that is not a cache of files:
/// `MemTotal - MemFree - Buffers - Cached - SReclaimable` of `/proc/meminfo`.
pub fn used_bytes() -> Result<u64> {
    let kib = meminfo_kib("MemTotal")?
        - meminfo_kib("MemFree")?
        - meminfo_kib("Buffers")?
        - meminfo_kib("Cached")?
        - meminfo_kib("SReclaimable")?;
    Ok(kib * 1024)
}

/// Of the machines this runs on.
const PAGE_BYTES: u64 = 4096;

struct SlabCache {
    /// In use.
    objects: u64,
    /// Share of a slab.
    object_bytes: u64,
}

fn slab_caches() -> Result<BTreeMap<String, SlabCache>> {
    let text = fs::read_to_string("/proc/slabinfo").context("reading /proc/slabinfo as root")?;
    let mut caches = BTreeMap::new();
    for line in text.lines().skip(2) {
        let mut fields = line.split_whitespace();
        let mut next = || fields.next().with_context(|| format!("/proc/slabinfo: {line:?}"));
        let (name, objects) = (next()?.to_owned(), next()?.parse()?);
        let (_allocated, _size) = (next()?, next()?);
        let (per_slab, pages): (u64, u64) = (next()?.parse()?, next()?.parse()?);
        let object_bytes = pages * PAGE_BYTES / per_slab.max(1);
        caches.insert(name, SlabCache { objects, object_bytes });
    }
    Ok(caches)
}

/// Least-squares slope of y over x, and the largest distance of a point from the line as a share
/// of the range of y: near 0 when memory grows in proportion.
pub fn slope(points: &[(f64, f64)]) -> Result<(f64, f64)> {
    ensure!(points.len() >= 4, "a slope needs at least four points, got {}", points.len());
    let count = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    ensure!(variance > 0.0, "a slope needs different values of x");
    let slope = covariance / variance;
    let distance = |(x, y): &(f64, f64)| (y - mean_y - slope * (x - mean_x)).abs();
    let farthest = points.iter().map(distance).fold(0.0, f64::max);
    let (low, high) = points
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.1), high.max(point.1)));
    Ok((slope, if high > low { farthest / (high - low) } else { 0.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(points: &[(f64, f64)], expected: Option<f64>) {
        let found = slope(points).ok().map(|(slope, _)| slope);
        match (found, expected) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9, "{found}"),
            (found, expected) => assert_eq!(found.is_some(), expected.is_some(), "{points:?}"),
        }
    }

    #[test]
    fn slope_is_that_of_the_line() {
        check(&[(0.0, 7.0), (1.0, 9.0), (2.0, 11.0), (3.0, 13.0)], Some(2.0));
        check(&[(0.0, 5.0), (1.0, 5.0), (2.0, 5.0), (3.0, 5.0)], Some(0.0));
    }

    #[test]
    fn slope_refuses_too_few_or_equal_points() {
        check(&[(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)], None);
        check(&[(1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], None);
    }

    #[test]
    fn own_private_memory_is_readable() {
        assert!(private_bytes(std::process::id()).is_ok_and(|bytes| bytes > 0));
    }
}
