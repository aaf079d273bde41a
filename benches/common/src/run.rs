//! A bench as a program: it ends well, fails with a sentence, or is stopped, and leaves nothing behind.

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a measurement until it is done or somebody stops it.
pub async fn to_its_end(bench: &str, measurement: impl Future<Output = Result<()>>) -> ExitCode {
    let done = tokio::select! {
        // Dropping the measurement ends its function and removes its group.
        done = measurement => done,
        () = interrupted() => Err(anyhow!("stopped; all that it started is gone")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{bench}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    let of = |kind| signal(kind).expect("signals can be listened to");
    let mut terminate = of(SignalKind::terminate());
    let mut hang_up = of(SignalKind::hangup());
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminate.recv() => (),
        _ = hang_up.recv() => (),
    }
}

/// Says where the bench is, to a terminal.
pub fn progress(what: &str) {
    if io::stderr().is_terminal() {
        // Back to the line's beginning; then what stood behind is cleared.
        eprint!("\r{what}\x1b[K");
    }
}

/// Writes all figures to a file.
pub fn write_figures(file: &Path, figures: &Value) -> Result<()> {
    fs::write(file, format!("{figures:#}\n")).with_context(|| format!("writing {}", file.display()))
}

/// A folder for a bench's files; it goes when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes the folder.
    pub fn new(bench: &str) -> Result<Self> {
        let dir = env::temp_dir().join(format!("{bench}-{}", process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self(dir))
    }

    /// Where a file of this name is to be.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where it cannot be removed, the system itself removes it later.
        let _ = fs::remove_dir_all(&self.0);
    }
}
