//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub const USAGE: &str = "\
usage: start-bench [OPTION VALUE]...
  --function PATH    the built function (target/release/bootstrap)
  --plain-sdk PATH   the plain function with AWS's SDK (target/plain-sdk/untuned/plain-sdk)
  --python PATH      a Python that has boto3 (.venv/bin/python)
  --only NAME        one of: ours, plain-sdk, boto3
  --runs N           fresh processes of the function (20)
  --peer-runs N      fresh processes of each peer (10)
  --warm N           warm events of each process that has any (50)
  --latency MS       the time of each call in the second warm run (50)
  --pause MS         between INIT and the first event (50)
  --gap MS           between warm events (100)
  --share no         measure with the whole processor
  --json FILE        write all figures there
Paths are seen from the current folder, which is the repository's.";

#[derive(Debug, Clone)]
pub struct Options {
    pub function: PathBuf,
    pub plain_sdk: PathBuf,
    pub python: PathBuf,
    pub only: Option<String>,
    pub runs: usize,
    pub peer_runs: usize,
    pub warm: usize,
    pub latency: Duration,
    pub pause: Duration,
    pub gap: Duration,
    pub share: bool,
    pub json: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments, the program's own name left out.
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            function: "target/release/bootstrap".into(),
            plain_sdk: "target/plain-sdk/untuned/plain-sdk".into(),
            python: ".venv/bin/python".into(),
            only: None,
            runs: 20,
            peer_runs: 10,
            warm: 50,
            latency: Duration::from_millis(50),
            pause: Duration::from_millis(50),
            gap: Duration::from_millis(100),
            share: true,
            json: None,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| USAGE.to_owned())?;
            let number =
                || value.parse::<usize>().with_context(|| format!("{name} {value}: no number"));
            let time = || Ok::<_, anyhow::Error>(Duration::from_millis(number()?.try_into()?));
            match name.as_str() {
                "--function" => options.function = value.into(),
                "--plain-sdk" => options.plain_sdk = value.into(),
                "--python" => options.python = value.into(),
                "--only" => options.only = Some(value),
                "--runs" => options.runs = number()?.max(1),
                "--peer-runs" => options.peer_runs = number()?.max(1),
                "--warm" => options.warm = number()?.max(1),
                "--latency" => options.latency = time()?,
                "--pause" => options.pause = time()?,
                "--gap" => options.gap = time()?,
                "--share" => options.share = value != "no",
                "--json" => options.json = Some(value.into()),
                _ => bail!("{name} is no option\n{USAGE}"),
            }
        }
        Ok(options)
    }
}
