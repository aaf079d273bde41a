//! Standard output, whatever becomes of its reader.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use signal_hook::consts::SIGXFSZ;

use crate::ask::{BEAT, Stop};

/// The output of a command that changes nothing. Once its reader has read enough (`| head`), the rest is left out, and the
/// exit code is what it would have been.
pub struct UntilClosed<W> {
    out: W,
    is_closed: bool,
}

impl<W> UntilClosed<W> {
    pub fn new(out: W) -> Self {
        Self { out, is_closed: false }
    }

    fn unless_closed<T>(&mut self, result: io::Result<T>, otherwise: T) -> io::Result<T> {
        match result {
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(otherwise)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(bytes.len());
        }
        let result = self.out.write(bytes);
        self.unless_closed(result, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let result = self.out.flush();
        self.unless_closed(result, ())
    }
}

/// The output of a command that changes something: writing to it neither fails nor waits, and [`Self::settle`] tells how it
/// went.
pub trait Output: Write {
    /// Waits until all is written, or a signal comes that this hears of.
    fn settle(&mut self, stop: Option<&Stop>) -> io::Result<()>;
}

/// Standard output behind a thread of its own: a reader who pauses (`| less`, Ctrl-S) would otherwise hold up a change
/// between two of its calls, and one who is gone would end it there.
pub struct Printer {
    parts: mpsc::Sender<Part>,
    has_failed: Arc<AtomicBool>,
}

enum Part {
    Text(Vec<u8>),
    /// Asks how it went so far.
    Settle(mpsc::Sender<io::Result<()>>),
}

impl Printer {
    /// Has this written to by a thread of its own, which ends with the tool.
    pub fn before(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        // A file that grows over its limit (`ulimit -f`) is output that fails, and no reason to die.
        signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        let (parts, received) = mpsc::channel();
        let has_failed = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&has_failed);
        thread::spawn(move || {
            let mut result = Ok(());
            for part in received {
                match part {
                    Part::Text(bytes) if result.is_ok() => {
                        result = out.write_all(&bytes).and_then(|()| out.flush());
                        if result.is_err() {
                            tell.store(true, Ordering::SeqCst);
                        }
                    }
                    Part::Text(_) => {}
                    // Whoever asked may have stopped waiting.
                    Part::Settle(answer) => drop(answer.send(same(&result))),
                }
            }
        });
        Ok(Self { parts, has_failed })
    }

    /// Rises when something could not be written.
    pub fn has_failed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_failed)
    }
}

fn same(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(why) => Err(why.raw_os_error().map_or_else(
            || io::Error::new(why.kind(), why.to_string()),
            io::Error::from_raw_os_error,
        )),
    }
}

fn thread_is_gone() -> io::Error {
    io::Error::other("the thread that writes is gone")
}

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.parts.send(Part::Text(bytes.to_vec())).is_err() {
            self.has_failed.store(true, Ordering::SeqCst);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Printer {
    fn settle(&mut self, stop: Option<&Stop>) -> io::Result<()> {
        let (answer, result) = mpsc::channel();
        self.parts.send(Part::Settle(answer)).map_err(|_| thread_is_gone())?;
        loop {
            match result.recv_timeout(BEAT) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => return Err(thread_is_gone()),
                Err(RecvTimeoutError::Timeout) if stop.is_some_and(Stop::is_signalled) => {
                    return Err(io::Error::other("interrupted while nobody read on"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
impl Output for Vec<u8> {
    fn settle(&mut self, _: Option<&Stop>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader who pauses until it is let go, and then is gone.
    struct Paused(mpsc::Receiver<()>);

    impl Write for Paused {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_who_pauses_holds_nothing_up() {
        let (let_go, paused) = mpsc::channel();
        let mut printer = Printer::before(Paused(paused)).unwrap();
        let stop = Stop::default();
        for _ in 0..1000 {
            writeln!(printer, "one line of many").unwrap();
        }
        assert!(!printer.has_failed().load(Ordering::SeqCst));
        stop.ask();
        let why = printer.settle(Some(&stop)).unwrap_err();
        assert_eq!(why.to_string(), "interrupted while nobody read on");
        drop(let_go);
        assert_eq!(printer.settle(None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(printer.has_failed().load(Ordering::SeqCst));
        writeln!(printer, "nobody reads this").unwrap();
        assert!(printer.settle(None).is_err(), "and that stays so");
    }

    #[test]
    fn what_nobody_reads_is_left_out() {
        let mut out = UntilClosed::new(Paused(mpsc::channel().1));
        writeln!(out, "one").unwrap();
        writeln!(out, "two").unwrap();
        out.flush().unwrap();
        assert!(out.is_closed);
    }
}
