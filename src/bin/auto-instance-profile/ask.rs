//! What a person says meanwhile: yes, no, or Ctrl-C.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

/// How soon an interrupt is noticed while an answer is waited for.
const BEAT: Duration = Duration::from_millis(100);

/// Whether somebody is there to be asked.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A flag that the first interrupt raises; a second one ends the tool at once.
pub fn on_interrupt() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order the first signal raises the flag, and the second finds it raised.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Asks. An interrupt is a no.
pub fn says_yes(question: &str, stop: &AtomicBool) -> io::Result<bool> {
    let mut err = io::stderr().lock();
    write!(err, "{question} (yes/no) ")?;
    err.flush()?;
    // A thread of its own, for nothing ends a read but a line. It ends with the tool.
    let (tell, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line).map(|_| line);
        // Where nobody waits any more, there was an interrupt.
        let _ = tell.send(read);
    });
    loop {
        match answer.recv_timeout(BEAT) {
            Ok(line) => return Ok(line?.trim().eq_ignore_ascii_case("yes")),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(false),
            Err(mpsc::RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                writeln!(err)?;
                return Ok(false);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
}
