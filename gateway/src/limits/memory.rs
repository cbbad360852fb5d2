//! Whether there is memory for more clients.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

/// What this process may use, of what its control group may.
const SHARE_PERCENT: u64 = 90;

/// Looks at how much memory the process uses.
pub(crate) struct Memory {
    /// Bytes; `None` for no limit.
    max: Option<u64>,
    short: AtomicBool,
}

impl Memory {
    /// No new clients from `max_mb` on; 0 for 90 % of what the control group allows, if it has a limit.
    pub(crate) fn new(max_mb: u32) -> Self {
        let max = match max_mb {
            0 => control_group_limit().map(|limit| limit / 100 * SHARE_PERCENT),
            megabytes => Some(u64::from(megabytes) * 1024 * 1024),
        };
        let memory = Self {
            max,
            short: AtomicBool::new(false),
        };
        memory.look();
        memory
    }

    /// Takes the measure anew. Reads a small file of the kernel's.
    pub(crate) fn look(&self) {
        let (Some(max), Some(used)) = (self.max, resident()) else {
            return;
        };
        let short = used >= max;
        if short != self.short.swap(short, Ordering::Relaxed) {
            if short {
                tracing::warn!(used, max, "memory is short: no new clients");
            } else {
                tracing::info!(used, max, "there is memory again for new clients");
            }
        }
    }

    /// Whether there was none left when it was last looked.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }
}

fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The limit of the control group, version 2 or 1, as a container sees it.
fn control_group_limit() -> Option<u64> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    // Version 1 writes an absurd number for no limit.
    limits
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .find(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_uses_more_than_it_may_is_short() {
        assert!(resident().is_some_and(|bytes| bytes > 100_000));
        assert!(Memory::new(1).is_short());
        assert!(!Memory::new(10_000_000).is_short());
    }
}
