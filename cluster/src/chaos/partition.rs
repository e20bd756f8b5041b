//! Drops packets of one port of this machine, by nft in a table of its own, which goes with the value: also when a run fails. The table of a
//! run that was killed is removed by the next one.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context as _, Result, ensure};

use super::schedule::Way;

const PREFIX: &str = "roost_chaos_";

/// Connections that are cut.
#[derive(Debug)]
pub(super) struct Cut {
    table: String,
}

impl Cut {
    /// Cuts everybody on this machine from `port`, or its answers from everybody.
    pub(super) fn make(port: u16, way: Way) -> Result<Self> {
        let (to, from) = match way {
            Way::Both => (true, true),
            Way::To => (true, false),
            Way::From => (false, true),
        };
        let rule = |is_cut: bool, end: &str| match is_cut {
            true => format!("iifname \"lo\" tcp {end} {port} counter drop\n"),
            false => String::new(),
        };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let table = format!("{PREFIX}{}_{number}", std::process::id());
        let chain = "type filter hook input priority -10; policy accept;";
        nft(&format!(
            "table inet {table} {{\nchain input {{\n{chain}\n{}{}}}\n}}\n",
            rule(to, "dport"),
            rule(from, "sport"),
        ))?;
        Ok(Self { table })
    }

    /// Packets dropped so far.
    pub(super) fn dropped(&self) -> Result<u64> {
        let listed = nft(&format!("list table inet {}", self.table))?;
        let counts = listed.split("counter packets ").skip(1);
        Ok(counts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        remove(&self.table);
    }
}

/// A path to one port whose packets are small, as far away: connections made meanwhile are given little room in the kernel's buffers.
#[derive(Debug)]
pub(super) struct NarrowPath {
    table: String,
}

impl NarrowPath {
    /// Bytes of a segment.
    const SEGMENT: u16 = 536;

    /// From whoever connects to `port` on this machine.
    pub(super) fn make(port: u16) -> Result<Self> {
        let table = format!("{PREFIX}{}_narrow", std::process::id());
        let segment = Self::SEGMENT;
        nft(&format!(
            "table inet {table} {{\nchain output {{\ntype filter hook output priority mangle; policy accept;\n\
             tcp dport {port} tcp flags syn tcp option maxseg size set {segment}\n}}\n}}\n",
        ))?;
        Ok(Self { table })
    }
}

impl Drop for NarrowPath {
    fn drop(&mut self) {
        remove(&self.table);
    }
}

fn remove(table: &str) {
    if let Err(error) = nft(&format!("delete table inet {table}")) {
        eprintln!("remove it by hand: nft delete table inet {table} ({error:#})");
    }
}

/// Tables of processes that are gone.
pub(super) fn remove_leftovers() {
    // Without nft there are none.
    for line in nft("list tables").unwrap_or_default().lines() {
        let table = line.rsplit(' ').next().unwrap_or_default();
        let numbers = table.strip_prefix(PREFIX).and_then(|numbers| numbers.split_once('_'));
        let Some((process, _)) = numbers else { continue };
        if !std::path::Path::new("/proc").join(process).exists() {
            _ = nft(&format!("delete table inet {table}"));
        }
    }
}

fn nft(script: &str) -> Result<String> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft is missing: apt-get install nftables")?;
    // Its end closes the pipe.
    nft.stdin.take().context("piped")?.write_all(script.as_bytes())?;
    let done = nft.wait_with_output()?;
    ensure!(done.status.success(), "nft: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    fn reaches(address: SocketAddr) -> bool {
        TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
    }

    #[test]
    fn a_cut_port_is_reached_by_nobody_until_it_is_healed() {
        roost_testing::host::need_package("/usr/sbin/nft", "nftables");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for way in [Way::Both, Way::To, Way::From] {
            assert!(reaches(address));
            let cut = Cut::make(address.port(), way).unwrap();
            assert!(!reaches(address), "{way:?}");
            assert!(cut.dropped().unwrap() > 0, "{way:?}");
        }
        assert!(reaches(address));
        let own = format!("{PREFIX}{}_", std::process::id());
        let tables = nft("list tables").unwrap();
        assert!(!tables.contains(&own), "{tables}");
    }

    #[test]
    fn two_cuts_are_healed_one_after_the_other() {
        roost_testing::host::need_package("/usr/sbin/nft", "nftables");
        let listeners = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let [one, two] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let [first, second] = [one, two].map(|at| Cut::make(at.port(), Way::Both).unwrap());
        assert!(!reaches(one) && !reaches(two));
        drop(first);
        assert!(reaches(one) && !reaches(two));
        drop(second);
        assert!(reaches(one) && reaches(two));
    }
}
