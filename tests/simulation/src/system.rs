//! What differs from run to run, taken from the seed instead: randomness and the clocks.
//!
//! The functions of the C library that the standard library and others ask for both are defined here, so the
//! programs of this crate are linked to these. In a thread that called [`enter`] randomness comes from the seed and
//! time from the paused clock of its tokio runtime; in every other thread both come from the system.
#![expect(
    unsafe_code,
    reason = "taking the place of functions of the C library is what makes a run repeatable"
)]

use std::{cell::Cell, time::Instant};

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// Seconds that the monotonic clock says when a simulation begins: far enough from zero to subtract from it.
const UPTIME: i64 = 1_000_000;
/// Unix seconds when a simulation begins.
const EPOCH: i64 = 1_750_000_000;
const NANOS: i64 = 1_000_000_000;

#[derive(Copy, Clone)]
enum Clock {
    /// The system's.
    System,
    /// It stands: before the runtime, and while the runtime itself is asked.
    Still(i64),
    /// The runtime's, since this instant of it.
    Runtime(Instant),
}

// Without destructors, so that they can be asked at any time in the life of a thread.
thread_local! {
    static CLOCK: Cell<Clock> = const { Cell::new(Clock::System) };
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread has the randomness of `seed`, and its time begins; it goes on with the clock of the
/// runtime. To be called once, at the very beginning of a thread.
pub(crate) fn enter(seed: u64) {
    RANDOM.set(Some(seed));
    CLOCK.set(Clock::Still(0));
    CLOCK.set(Clock::Runtime(Instant::now()));
}

/// Nanoseconds since [`enter`]; `None` where the system's clock counts.
fn elapsed() -> Option<i64> {
    let begin = match CLOCK.get() {
        Clock::System => return None,
        Clock::Still(at) => return Some(at),
        Clock::Runtime(begin) => begin,
    };
    // The runtime's clock, where there is none yet, asks this one.
    CLOCK.set(Clock::Still(0));
    let elapsed = tokio::time::Instant::now().into_std().duration_since(begin);
    CLOCK.set(Clock::Runtime(begin));
    Some(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX))
}

/// The next eight random bytes (SplitMix64); `None` where the system's count.
fn random() -> Option<u64> {
    let state = RANDOM.get()?;
    RANDOM.set(Some(crate::dice::advance(state)));
    Some(crate::dice::mix(crate::dice::advance(state)))
}

/// As the function of this name in POSIX.
///
/// # Safety
/// `time` is valid for a write.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    let Some(elapsed) = elapsed() else {
        // SAFETY: the arguments are those of the system call, and the caller's.
        let result = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
        return c_int::try_from(result).unwrap_or(-1);
    };
    let begin = if clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE {
        EPOCH
    } else {
        UPTIME
    };
    let now = timespec {
        tv_sec: begin + elapsed / NANOS,
        tv_nsec: elapsed % NANOS,
    };
    // SAFETY: the caller says that it is valid for a write.
    unsafe { time.write(now) };
    0
}

/// As the function of this name in Linux.
///
/// # Safety
/// `buffer` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    let bytes = buffer.cast::<u8>();
    for at in (0..length).step_by(8) {
        let Some(random) = random() else {
            // SAFETY: the arguments are those of the system call, and the caller's.
            let result = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
            return ssize_t::try_from(result).unwrap_or(-1);
        };
        let random = random.to_ne_bytes();
        let count = random.len().min(length - at);
        // SAFETY: `at + count` is at most `length`, and the source is not the caller's memory.
        unsafe { bytes.add(at).copy_from_nonoverlapping(random.as_ptr(), count) };
    }
    ssize_t::try_from(length).unwrap_or(ssize_t::MAX)
}
