//! What a person says meanwhile: yes, no, or that it is enough.

use std::ffi::c_int;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::flag;

/// How soon a signal is noticed while an answer, or a turn, is waited for.
pub const BEAT: Duration = Duration::from_millis(100);

/// Whether somebody is there to be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether no further change may be begun. What is under way is ended all the same: however often somebody presses Ctrl-C,
/// and though the terminal is gone, no instance is left between the two calls of a change.
#[derive(Debug)]
pub struct Stop {
    signalled: Arc<AtomicBool>,
    /// Whether nothing is under way, so that signals do what they always do.
    is_idle: Arc<AtomicBool>,
    unwritable: Arc<AtomicBool>,
}

impl Stop {
    /// Once work has begun, signals ask to stop, and so does output that cannot be written.
    pub fn on_signals(unwritable: Arc<AtomicBool>) -> io::Result<Self> {
        let stop = Self { unwritable, ..Self::default() };
        stop.work_is_over();
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            // Whoever started the tool by `nohup` or in the background wants it to go on.
            if is_ignored(signal) {
                continue;
            }
            // In this order: a signal while nothing is under way ends the tool before it asks for anything.
            flag::register_conditional_default(signal, Arc::clone(&stop.is_idle))?;
            flag::register(signal, Arc::clone(&stop.signalled))?;
        }
        // Suspended (Ctrl-Z) between two calls, an instance would wait for its profile as long as the tool sleeps.
        flag::register_conditional_default(SIGTSTP, Arc::clone(&stop.is_idle))?;
        Ok(stop)
    }

    /// Whether a signal came.
    pub fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::SeqCst)
    }

    /// Whether to begin nothing more, for whatever reason.
    pub fn is_asked(&self) -> bool {
        self.is_signalled() || self.unwritable.load(Ordering::SeqCst)
    }

    /// From now on signals only ask to stop.
    pub fn work_begins(&self) {
        self.is_idle.store(false, Ordering::SeqCst);
    }

    /// From now on signals end the tool at once.
    pub fn work_is_over(&self) {
        self.is_idle.store(true, Ordering::SeqCst);
    }
}

impl Default for Stop {
    /// One that no signal raises.
    fn default() -> Self {
        let down = || Arc::new(AtomicBool::new(false));
        Self { signalled: down(), is_idle: down(), unwritable: down() }
    }
}

#[cfg(test)]
impl Stop {
    /// As if a signal came.
    pub fn ask(&self) {
        self.signalled.store(true, Ordering::SeqCst);
    }
}

/// Whether the process was started so that it ignores this signal, as far as the system tells.
fn is_ignored(signal: c_int) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Asks. A signal is a no.
pub fn says_yes(question: &str, stop: &Stop) -> io::Result<bool> {
    let mut err = io::stderr().lock();
    write!(err, "{question} (yes/no) ")?;
    err.flush()?;
    // A thread of its own, for nothing ends a read but a line. It ends with the tool.
    let (tell, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line).map(|_| line);
        // Where nobody waits any more, there was a signal.
        let _ = tell.send(read);
    });
    loop {
        match answer.recv_timeout(BEAT) {
            Ok(line) => return Ok(is_yes(&line?)),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(false),
            Err(mpsc::RecvTimeoutError::Timeout) if stop.is_asked() => {
                // The terminal may be gone.
                let _ = writeln!(err);
                return Ok(false);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_is_yes_however_it_is_written() {
        for answer in ["yes\n", "y\n", "Y", " YES \r\n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "no\n", "n\n", "yess\n", "ye\n", "yes please\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
