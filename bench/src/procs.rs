//! What the kernel says about processes: CPU time and memory.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

const PAGE: u64 = 4096;

/// A server process to be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Process {
    /// What it is called in reports.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

/// A look at the servers and the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Nanoseconds of the monotonic clock.
    pub(crate) at: u64,
    pub(crate) processes: Vec<Usage>,
    /// Kernel memory of TCP sockets' buffers, of the whole machine.
    pub(crate) socket_bytes: u64,
    /// Kernel objects, of the whole machine.
    pub(crate) slab_bytes: u64,
}

/// What a process has used so far, and holds. Bytes.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) cpu_seconds: f64,
    pub(crate) resident: u64,
    /// Shared pages divided by those who share them.
    pub(crate) proportional: u64,
}

impl Sample {
    /// Memory only when it is wanted: walking a large process takes a while.
    pub(crate) fn take(processes: &[Process], memory: bool) -> Result<Self> {
        let processes = processes
            .iter()
            .map(|process| {
                let (resident, proportional) = if memory { memory_of(process.pid)? } else { (0, 0) };
                Ok(Usage {
                    name: process.name.clone(),
                    cpu_seconds: cpu_seconds(process.pid)?,
                    resident,
                    proportional,
                })
            })
            .collect::<Result<_>>()?;
        let (socket_bytes, slab_bytes) = if memory { kernel()? } else { (0, 0) };
        Ok(Self {
            at: crate::net::now(),
            processes,
            socket_bytes,
            slab_bytes,
        })
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes.iter().map(|process| process.cpu_seconds).sum()
    }

    pub(crate) fn resident(&self) -> u64 {
        self.processes.iter().map(|process| process.resident).sum()
    }

    pub(crate) fn proportional(&self) -> u64 {
        self.processes.iter().map(|process| process.proportional).sum()
    }
}

/// CPU seconds of a process. The scheduler's count is exact and forgets threads that have ended; `stat` does
/// not, and counts in ticks.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    // The name may have spaces; what follows its bracket does not.
    let rest = stat.rsplit_once(')').context("no name in stat")?.1;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || anyhow::Ok(fields.next().context("stat is short")?.parse::<f64>()?);
    // USER_HZ is 100 on every Linux that Rust supports.
    let coarse = (ticks()? + ticks()?) / 100.0;
    let mut exact = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // A thread may end meanwhile, and a kernel may be built without.
        if let Ok(text) = fs::read_to_string(task.path().join("schedstat"))
            && let Some(nanoseconds) = text.split(' ').next()
        {
            exact += nanoseconds.parse::<f64>()? / 1e9;
        }
    }
    Ok(coarse.max(exact))
}

fn memory_of(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("no process {pid}"))?;
    Ok((kib(&text, "Rss:")? * 1024, kib(&text, "Pss:")? * 1024))
}

fn kernel() -> Result<(u64, u64)> {
    let slab = kib(&fs::read_to_string("/proc/meminfo")?, "Slab:")? * 1024;
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let pages = sockets
        .lines()
        .find_map(|line| line.strip_prefix("TCP:")?.split(" mem ").nth(1))
        .and_then(|pages| pages.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Ok((pages * PAGE, slab))
}

fn kib(text: &str, key: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("the kernel does not tell {key}"))
}

/// Keeps a process (`None`: this one) and the threads it will start on one core.
pub(crate) fn pin(pid: Option<u32>, core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    rustix::thread::sched_setaffinity(pid, &set).with_context(|| format!("pinning to core {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let me = Process {
            name: "me".to_owned(),
            pid: std::process::id(),
        };
        let sample = Sample::take(&[me], true).unwrap();
        assert!(sample.resident() > 100_000 && sample.proportional() > 0);
        assert!(sample.cpu_seconds() < 1e6);
    }
}
