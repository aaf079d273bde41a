//! Lambda's share of a processor, by the kernel's control groups, in their first version or their second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A function of 1,769 MB has one processor, and one of less has its share of it: with 128 MB 7.24 %.
const MEMORY_OF_ONE_PROCESSOR_MB: u32 = 1769;
/// Of so much time the function has its share at once.
const PERIOD_US: u32 = 20_000;

/// Where groups can be made.
#[derive(Debug, Clone)]
pub struct Share {
    version: Version,
    parent: PathBuf,
    quota_us: u32,
}

#[derive(Debug, Clone, Copy)]
enum Version {
    One,
    Two,
}

/// One group with the share; its processes must be gone when it is dropped.
pub struct Group {
    dir: PathBuf,
}

impl Share {
    /// A place where a group can be made and limited, to what a function of this memory has.
    pub fn find(memory_mb: u32) -> Result<Self> {
        let quota_us = PERIOD_US * memory_mb / MEMORY_OF_ONE_PROCESSOR_MB + 1;
        let mounts = fs::read_to_string("/proc/mounts").context("no control groups here")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("no control groups here")?;
        let mut why = None;
        for share in candidates(&mounts, &own, quota_us) {
            match share.group() {
                Ok(_) => return Ok(share),
                Err(error) => why = why.or(Some(error)),
            }
        }
        match why {
            Some(error) => Err(error),
            None => bail!("no control groups with the cpu controller here"),
        }
    }

    /// The share, and what enforces it.
    #[must_use]
    pub fn describe(&self) -> String {
        let version = match self.version {
            Version::One => 1,
            Version::Two => 2,
        };
        let quota_us = self.quota_us;
        format!("{quota_us} µs of each {PERIOD_US} µs, by control groups version {version}")
    }

    /// A new group with the share, empty.
    pub fn group(&self) -> Result<Group> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = self.parent.join(format!("bench-{}-{number}", process::id()));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        let group = Group { dir };
        match self.version {
            Version::One => {
                group.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                group.set("cpu.cfs_quota_us", &self.quota_us.to_string())?;
            }
            Version::Two => group.set("cpu.max", &format!("{} {PERIOD_US}", self.quota_us))?,
        }
        Ok(group)
    }
}

/// The version with the cpu controller, in our own group first: there our own limits go on to hold.
fn candidates(mounts: &str, own: &str, quota_us: u32) -> Vec<Share> {
    let mut found = Vec::new();
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        let [_, at, kind, options, ..] = fields[..] else { continue };
        // HIERARCHY:CONTROLLERS:PATH; no controllers are named for version 2.
        let path = |is_ours: &dyn Fn(&str) -> bool| {
            own.lines()
                .filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok())
                .find(|[controllers, _]: &[&str; 2]| is_ours(controllers))
                .map_or("", |[_, path]| path.trim_start_matches('/'))
        };
        if kind == "cgroup" && options.split(',').any(|option| option == "cpu") {
            let path = path(&|controllers| controllers.split(',').any(|one| one == "cpu"));
            found.push(Share { version: Version::One, parent: Path::new(at).join(path), quota_us });
            found.push(Share { version: Version::One, parent: at.into(), quota_us });
        } else if kind == "cgroup2" {
            // A group of version 2 that holds processes has no limits to give: one above it may.
            for above in Path::new(at).join(path(&|controllers| controllers.is_empty())).ancestors()
            {
                if above.starts_with(at) {
                    found.push(Share { version: Version::Two, parent: above.to_owned(), quota_us });
                }
            }
        }
    }
    found
}

impl Group {
    /// From now on this process, with all its threads, has the share.
    pub fn take(&self, pid: u32) -> Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// How often the group had to wait for its next share.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.dir.join("cpu.stat")).unwrap_or_default();
        let count = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        count.and_then(|count| count.parse().ok()).unwrap_or_default()
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, value).with_context(|| format!("writing {}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A killed process leaves its group a moment later.
        for _ in 0..200 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("could not remove {}", self.dir.display());
    }
}
