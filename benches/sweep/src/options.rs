//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub const USAGE: &str = "\
usage: sweep-bench [OPTION VALUE]...
  --function PATH    the built function (target/release/bootstrap)
  --fleets LIST      of each fleet its instances, the kilobytes that EC2 says about each, the milliseconds that a page
                     takes EC2, and the sweeps, one after the other in one process
                     (10000:5:0:5,10000:5:2000:1,3000:30:0:1,3000:80:0:1,100000:5:600:1)
  --share no         measure with the whole processor
  --json FILE        write all figures there
Paths are seen from the current folder, which is the repository's.";

#[derive(Debug, Clone)]
pub struct Options {
    pub function: PathBuf,
    pub fleets: Vec<Fleet>,
    pub share: bool,
    pub json: Option<PathBuf>,
}

/// A fleet to be swept.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    pub instances: usize,
    /// What EC2 says about each, in bytes; a plain one has five thousand.
    pub weight: usize,
    /// What each page takes EC2 beside the work itself.
    pub latency: Duration,
    pub sweeps: usize,
}

/// Without `--fleets`.
const FLEETS: &str = "10000:5:0:5,10000:5:2000:1,3000:30:0:1,3000:80:0:1,100000:5:600:1";

impl Options {
    /// Reads the arguments, the program's own name left out.
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            function: "target/release/bootstrap".into(),
            fleets: fleets(FLEETS)?,
            share: true,
            json: None,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| USAGE.to_owned())?;
            match name.as_str() {
                "--function" => options.function = value.into(),
                "--fleets" => options.fleets = fleets(&value)?,
                "--share" => options.share = value != "no",
                "--json" => options.json = Some(value.into()),
                _ => bail!("{name} is no option\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

fn fleets(list: &str) -> Result<Vec<Fleet>> {
    let fleets = list.split(',').map(fleet).collect::<Option<_>>();
    fleets.with_context(|| format!("--fleets {list}\n{USAGE}"))
}

/// `INSTANCES:KB:MS:SWEEPS`
fn fleet(text: &str) -> Option<Fleet> {
    let [instances, kilobytes, ms, sweeps] = text.split(':').collect::<Vec<_>>().try_into().ok()?;
    Some(Fleet {
        instances: instances.parse().ok()?,
        weight: 1000 * kilobytes.parse::<usize>().ok()?,
        latency: Duration::from_millis(ms.parse().ok()?),
        sweeps: sweeps.parse().ok()?,
    })
}
