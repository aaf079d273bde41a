//! `report`: where a whole fleet stands, by the function's own sweep, as table, counts, JSON and page. It decides nothing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process;

use auto_instance_profile::aws::written;
use auto_instance_profile::census::{self, Census, Source, Standing};
use auto_instance_profile::cloud::{CloudError, ROWS_PER_PAGE};
use auto_instance_profile::policy::Policy;
use auto_instance_profile::report::{Entry, InstanceReport};
use auto_instance_profile::sweep::{Retries, Sweep, entry};
use comfy_table::{Attribute, Cell, Color};
use serde::Serialize;
use tokio::time::Instant;

use crate::args::{FleetArgs, ReportArgs};
use crate::fleet::{Place, TIME_FOR_A_LOOK, now_ns, policy_of};
use crate::plan::{accounts, colour, name, table, weight, word};
use crate::show::{BAD, FAINT, GOOD, HEADING, Progress, UNSURE, counted, printable, write_json};
use crate::{End, Trouble, since_1970, wait_for};

/// The page, with one place for the data.
const PAGE: &str = include_str!("report.html");
const PLACE_FOR_DATA: &str = "__REPORT_JSON__";
/// What launches bare instances is listed up to here, unless all is asked for.
const SOURCES_LISTED: usize = 10;

pub fn run(args: &ReportArgs, out: &mut impl Write) -> Result<End, Trouble> {
    let is_page = args.html.as_deref() == Some(Path::new("-"));
    if is_page && args.fleet.json {
        let why = "--html - and --json would both be written to standard output; name a file for the page";
        return Err(Trouble::Usage(why.to_owned()));
    }
    let loaded = policy_of(&args.fleet)?;
    let (region, reports) = wait_for(async {
        let place = Place::find(args.fleet.region.as_ref(), None).await?;
        let reports = look(&place, &args.fleet, &loaded.policy).await?;
        Ok::<_, Trouble>((place.region, reports))
    })?;
    let report = Report::new(
        region.as_str(),
        &loaded.name,
        &args.fleet.allowed.text,
        written(since_1970()),
        reports,
    );
    if is_page {
        out.write_all(page(&report.json())?.as_bytes())?;
        return Ok(report.end());
    }
    if args.fleet.json {
        write_json(&report.json(), out)?;
    } else {
        report.write(args.fleet.all, out)?;
    }
    if let Some(file) = &args.html {
        let page = page(&report.json())?;
        write_whole(file, &page).map_err(|source| {
            let file = file.display().to_string();
            Trouble::Unwritable { file, source }
        })?;
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.clone());
        let said = format!("The report is in {}", printable(&file.display().to_string()));
        // Where a program reads the output, this is none of it.
        if args.fleet.json {
            // The page is there, whether or not anybody is told.
            let _ = writeln!(anstream::stderr(), "{said}");
        } else {
            writeln!(out, "\n{said}")?;
        }
    }
    Ok(report.end())
}

/// Sweeps through every instance that passes the filters.
async fn look(
    place: &Place,
    args: &FleetArgs,
    policy: &Policy,
) -> Result<Vec<InstanceReport>, Trouble> {
    let progress = Progress::new();
    let sweep = Sweep {
        cloud: &place.cloud,
        profiles: &place.profiles,
        policy,
        region: &place.region,
        account: None,
        now_ns: now_ns(),
        max_rows: *ROWS_PER_PAGE.end(),
        retries: Retries::Never,
    };
    progress.say(&format!("Listing instances in {}", place.region));
    let mut pages = sweep.begin(&args.filter, Instant::now() + TIME_FOR_A_LOOK).await;
    let mut reports: Vec<InstanceReport> = Vec::new();
    loop {
        match pages.next(Instant::now() + TIME_FOR_A_LOOK).await {
            Ok(Some(page)) => {
                reports.extend(page.reports);
                progress.say(&format!("Looking at instances: {}", reports.len()));
            }
            Ok(None) => return Ok(reports),
            Err(error) => return Err(unlisted(place, error).await),
        }
    }
}

async fn unlisted(place: &Place, error: CloudError) -> Trouble {
    match place.check_credentials(&error).await {
        Ok(()) => Trouble::List(error),
        Err(trouble) => trouble,
    }
}

/// The report on one Region.
struct Report<'a> {
    region: &'a str,
    account: Option<String>,
    policy: &'a str,
    allowed: &'a str,
    generated: String,
    census: Census,
    /// The most urgent first, each with what launched it, where it came up bare and must not be.
    rows: Vec<(InstanceReport, Option<String>)>,
}

/// Where an instance is in a report, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Change,
    Failed,
    Blocked,
    Stuck,
    Waiting,
    Left,
    Right,
}

fn urgency(report: &InstanceReport) -> Urgency {
    match report.standing() {
        Standing::Change => Urgency::Change,
        Standing::Failed => Urgency::Failed,
        Standing::Blocked => Urgency::Blocked,
        Standing::Waiting => Urgency::Waiting,
        Standing::Left => Urgency::Left,
        Standing::Right if report.is_stuck => Urgency::Stuck,
        Standing::Right => Urgency::Right,
    }
}

impl<'a> Report<'a> {
    fn new(
        region: &'a str,
        policy: &'a str,
        allowed: &'a str,
        generated: String,
        mut reports: Vec<InstanceReport>,
    ) -> Self {
        reports.sort_by_cached_key(|report| {
            // Of the changes those first that take something away.
            let weight = report.decision.as_ref().map_or(0, weight);
            (urgency(report), Reverse(weight), report.reason(), report.instance.id.clone())
        });
        let account = accounts(&reports);
        let mut census = Census::default();
        let rows = reports.into_iter().map(|report| {
            let source = report.launch_source();
            let counted = entry(&report, source.as_deref());
            // A census keeps as many sources as a message can carry. Here there is room for all.
            census.count(census::Entry { bare_source: None, ..counted });
            let source = counted.bare_source.map(str::to_owned);
            if let Some(source) = &source {
                *census.bare_sources.entry(source.clone()).or_default() += 1;
            }
            (report, source)
        });
        let rows = rows.collect();
        Self { region, account, policy, allowed, generated, census, rows }
    }

    /// An instance that nobody could decide about is an error; so is nothing else in a report.
    fn end(&self) -> End {
        let Counts { wrong, blocked, failed, stuck, .. } = self.counts();
        match (failed, wrong + blocked + stuck) {
            (0, 0) => End::Done,
            (0, _) => End::SomethingToDo,
            (_, _) => End::Wrong,
        }
    }

    fn counts(&self) -> Counts {
        let Census { instances, right, wrong, waiting, stuck, blocked, left, failed, .. } =
            &self.census;
        let sum = |by: &BTreeMap<String, u64>| by.values().sum();
        Counts {
            instances: *instances,
            right: *right,
            wrong: *wrong,
            blocked: sum(blocked),
            left: sum(left),
            failed: sum(failed),
            waiting: *waiting,
            stuck: *stuck,
        }
    }

    /// The report for a program, and for the page.
    fn json(&self) -> ReportJson<'_> {
        let rows = self.rows.iter().map(|(report, source)| RowJson {
            standing: report.standing(),
            stuck: report.is_stuck,
            name: name(report),
            launch_source: source.as_deref(),
            entry: report.entry(),
        });
        ReportJson {
            region: self.region,
            account: self.account.as_deref(),
            policy: self.policy,
            allowed: self.allowed,
            generated: &self.generated,
            counts: self.counts(),
            blocked: &self.census.blocked,
            left: &self.census.left,
            failed: &self.census.failed,
            bare_sources: self.census.ranking(),
            instances: rows.collect(),
        }
    }

    /// Writes the report for a person.
    fn write(&self, all: bool, out: &mut impl Write) -> io::Result<()> {
        let counts = self.counts();
        writeln!(
            out,
            "{HEADING}{} in {}{HEADING:#}, account {}, by {}, allowed {}, as of {}\n",
            instances(counts.instances),
            self.region,
            self.account.as_deref().unwrap_or("unknown"),
            printable(self.policy),
            self.allowed,
            self.generated,
        )?;
        let is_listed = |report: &InstanceReport| {
            all || !matches!(urgency(report), Urgency::Left | Urgency::Right)
        };
        let rows: Vec<_> =
            self.rows.iter().map(|(report, _)| report).filter(|report| is_listed(report)).collect();
        if !rows.is_empty() {
            writeln!(out, "{}\n", table(&rows, "STANDING", standing))?;
        }
        self.write_counts(&counts, out)?;
        self.write_sources(all, out)?;
        let unlisted = self.rows.len() - rows.len();
        if unlisted > 0 {
            writeln!(
                out,
                "\n{FAINT}Not listed: {}, right or left alone; --all lists them.{FAINT:#}",
                counted(unlisted, "instance")
            )?;
        }
        Ok(())
    }

    fn write_counts(&self, counts: &Counts, out: &mut impl Write) -> io::Result<()> {
        let off = counts.wrong + counts.blocked + counts.failed;
        if counts.instances == 0 {
            writeln!(out, "There is nothing here, or the filters let nothing through.")?;
        } else if off + counts.stuck == 0 {
            writeln!(out, "{GOOD}Nothing is wrong.{GOOD:#}")?;
        } else if off == 0 {
            writeln!(out, "{BAD}{} stuck.{BAD:#}", of(counts.stuck, counts.instances))?;
        } else {
            writeln!(out, "{BAD}{} not right.{BAD:#}", of(off, counts.instances))?;
        }
        let mut changes: BTreeMap<String, u64> = BTreeMap::new();
        for (report, _) in &self.rows {
            if report.standing() == Standing::Change {
                *changes.entry(word(report).to_owned()).or_default() += 1;
            }
        }
        let (none, census) = (BTreeMap::new(), &self.census);
        for (number, what, reasons, style) in [
            (counts.wrong, "would be changed", &changes, UNSURE),
            (counts.failed, "failed", &census.failed, BAD),
            (counts.blocked, "blocked", &census.blocked, UNSURE),
            (counts.stuck, "stuck: EC2 cannot assume the role", &none, BAD),
            (counts.waiting, "waiting for their next state", &none, FAINT),
            (counts.left, "left alone", &census.left, FAINT),
            (counts.right, "right", &none, FAINT),
        ] {
            if number > 0 {
                writeln!(out, "{style}      {number} {what}{}{style:#}", because(reasons))?;
            }
        }
        Ok(())
    }

    fn write_sources(&self, all: bool, out: &mut impl Write) -> io::Result<()> {
        let ranking = self.census.ranking();
        let Some(first) = ranking.first() else { return Ok(()) };
        writeln!(out, "\n{HEADING}Who comes up bare{HEADING:#}")?;
        let listed = if all { ranking.len() } else { SOURCES_LISTED };
        let width = first.count.to_string().len().max(5);
        for Source { source, count } in ranking.iter().take(listed) {
            writeln!(out, "  {count:width$}  {}", printable(source))?;
        }
        match ranking.len().saturating_sub(listed) {
            0 => Ok(()),
            more => writeln!(out, "  {FAINT}{more} more; --all lists them.{FAINT:#}"),
        }
    }
}

fn instances(number: u64) -> String {
    format!("{number} instance{}", if number == 1 { "" } else { "s" })
}

/// `1 of 3 instances is`, `2 of 3 instances are`.
fn of(number: u64, all: u64) -> String {
    format!("{number} of {} {}", instances(all), if number == 1 { "is" } else { "are" })
}

/// How many for which reason, in brackets.
fn because(reasons: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<_> =
        reasons.iter().map(|(reason, number)| format!("{number} {reason}")).collect();
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) }
}

/// Where an instance stands, in a colour.
fn standing(report: &InstanceReport) -> Cell {
    match urgency(report) {
        Urgency::Change => Cell::new(format!("would {}", word(report))).fg(colour(report)),
        Urgency::Failed => Cell::new("failed").fg(Color::Red),
        Urgency::Stuck => Cell::new("stuck").fg(Color::Red),
        Urgency::Blocked => Cell::new("blocked").fg(Color::Yellow),
        Urgency::Waiting => Cell::new("waiting").add_attribute(Attribute::Dim),
        Urgency::Left => Cell::new("left").add_attribute(Attribute::Dim),
        Urgency::Right => Cell::new("right").add_attribute(Attribute::Dim),
    }
}

/// What the page and programs read. `tests/python/report_sample.json` is one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ReportJson<'a> {
    region: &'a str,
    account: Option<&'a str>,
    policy: &'a str,
    allowed: &'a str,
    /// When the fleet was looked at.
    generated: &'a str,
    counts: Counts,
    /// By reason.
    blocked: &'a BTreeMap<String, u64>,
    /// By reason.
    left: &'a BTreeMap<String, u64>,
    /// By the error's type.
    failed: &'a BTreeMap<String, u64>,
    /// What launched the bare ones that are to have a profile, the most frequent first.
    bare_sources: Vec<Source<'a>>,
    /// The most urgent first.
    instances: Vec<RowJson<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Counts {
    instances: u64,
    right: u64,
    wrong: u64,
    blocked: u64,
    left: u64,
    failed: u64,
    waiting: u64,
    /// Of those that are right.
    stuck: u64,
}

/// The entry that the function would answer with, and what a report adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct RowJson<'a> {
    standing: Standing,
    stuck: bool,
    name: Option<&'a str>,
    /// Only where it is counted among the `bare-sources`.
    launch_source: Option<&'a str>,
    #[serde(flatten)]
    entry: Entry,
}

/// The page with a report in it.
fn page(report: &impl Serialize) -> Result<String, Trouble> {
    let json = serde_json::to_string(report).map_err(io::Error::from)?;
    Ok(PAGE.replacen(PLACE_FOR_DATA, &inert(&json), 1))
}

/// JSON in which nothing ends the script that it stands in: outside of texts it has none of these characters.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// Writes a file so that it is there as a whole or, after a failure, as it was.
fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", process::id()));
    let beside = file.with_file_name(beside);
    let mut new = fs::File::create_new(&beside)?;
    let written = new.write_all(text.as_bytes()).and_then(|()| new.sync_all());
    written.and_then(|()| fs::rename(&beside, file)).inspect_err(|_| {
        // It is of no use. Where it cannot be removed, it is not there.
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use auto_instance_profile::decide::{Decision, Patience};
    use auto_instance_profile::failure::Failure;
    use auto_instance_profile::model::{
        Instance, InstanceFacts, InstanceId, InstanceRef, InstanceState, Keeper, Platform, Region,
        TagSource, Tags,
    };
    use auto_instance_profile::report::{Before, Cause, Outcome};
    use serde_json::{Value, json};

    use super::*;

    /// A bare instance of this group, with this result; nothing is required of it, where that is a success.
    fn bare(number: usize, group: &str, result: Result<Outcome, Failure>) -> InstanceReport {
        let id = InstanceId::parse(&format!("i-{number:x}")).unwrap();
        let tags = [("aws:autoscaling:groupName", group), ("Name", "</script><b>")];
        let tags: Tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let instance = Instance {
            id: id.clone(),
            account: None,
            state: InstanceState::Running,
            tags,
            keeper: Keeper::Owner,
            vpc: None,
            subnet: None,
            instance_type: None,
            platform: Platform::Linux,
            started: None,
        };
        InstanceReport {
            instance: InstanceRef {
                account: None,
                region: Region::parse("eu-west-1").unwrap(),
                id,
            },
            cause: Cause::default(),
            before: Before::default(),
            after: None,
            disposition: None,
            follow_up: None,
            is_flapping: false,
            is_stuck: false,
            facts: Some(InstanceFacts {
                instance,
                association: None,
                tags_by: TagSource::Instances,
            }),
            rule: None,
            tags: Tags::new(),
            decision: result.is_ok().then_some(Decision::KeepBare),
            result,
            patience: Patience::Exhausted,
            duration: Duration::ZERO,
        }
    }

    fn report(reports: Vec<InstanceReport>) -> Report<'static> {
        Report::new("eu-west-1", "p.yaml", "*", written(Duration::from_hours(498_690)), reports)
    }

    fn text(report: &Report<'_>, all: bool) -> String {
        let mut out = Vec::new();
        report.write(all, &mut anstream::StripStream::new(&mut out)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_source_that_is_counted_is_on_as_many_rows() {
        let reports = (0..120).map(|number| {
            let group = format!("web-{}", number % 60);
            let result = if number < 110 { Err(Failure::OutOfTime) } else { Ok(Outcome::Kept) };
            bare(number, &group, result)
        });
        let report = report(reports.collect());
        assert_eq!(report.end(), End::Wrong);
        let json = serde_json::to_value(report.json()).unwrap();
        assert_eq!(json["generated"], "2026-11-21T18:00:00Z");
        let sources = json["bare-sources"].as_array().unwrap();
        assert_eq!(sources.len(), 60, "more than a message could carry");
        assert_eq!(sources[0]["count"], 2);
        for source in sources {
            let rows = json["instances"].as_array().unwrap();
            let of_it = rows.iter().filter(|row| row["launch-source"] == source["source"]);
            assert_eq!(json!(of_it.count()), source["count"], "{source}");
        }
        assert_eq!(json["failed"], json!({"OutOfTime": 110}));
        assert!(text(&report, false).contains("\n  50 more; --all lists them."));
        assert!(!text(&report, true).contains("more; --all"));
    }

    #[test]
    fn what_is_stuck_is_right_and_somebodys_business() {
        let mut stuck = bare(1, "web", Ok(Outcome::Kept));
        stuck.is_stuck = true;
        let report = report(vec![bare(0, "web", Ok(Outcome::Kept)), stuck]);
        assert_eq!(report.end(), End::SomethingToDo);
        let counts = serde_json::to_value(report.counts()).unwrap();
        assert_eq!((&counts["right"], &counts["stuck"]), (&json!(2), &json!(1)));
        let text = text(&report, false);
        assert!(text.contains("1 of 2 instances is stuck.\n"), "{text}");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("i-")).collect();
        assert!(
            matches!(rows[..], [row] if row.contains("stuck") && row.contains("association-stuck")),
            "{text}"
        );
    }

    #[test]
    fn the_page_holds_the_report() {
        let report = report(vec![bare(1, "</script><script>", Err(Failure::OutOfTime))]);
        let page = page(&report.json()).unwrap();
        let (before, after) = PAGE.split_once(PLACE_FOR_DATA).unwrap();
        let data = page.strip_prefix(before).unwrap().strip_suffix(after).unwrap();
        let read: Value = serde_json::from_str(data).unwrap();
        assert_eq!(read, serde_json::to_value(report.json()).unwrap());
        assert_eq!(read["instances"][0]["name"], "</script><b>");
    }

    #[test]
    fn the_page_has_one_place_for_the_data() {
        assert_eq!(PAGE.matches(PLACE_FOR_DATA).count(), 1);
    }

    #[test]
    fn no_text_leaves_its_place_in_the_page() {
        let texts =
            ["</script><b>", "<!--<script>", "\u{2028}\u{2029}", PLACE_FOR_DATA, "\"\\'", "$&"];
        let page = page(&texts).unwrap();
        let (before, after) = PAGE.split_once(PLACE_FOR_DATA).unwrap();
        let data = page.strip_prefix(before).unwrap().strip_suffix(after).unwrap();
        assert!(!data.contains(['<', '\u{2028}', '\u{2029}']), "{data}");
        assert_eq!(serde_json::from_str::<Vec<String>>(data).unwrap(), texts);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = std::env::temp_dir().join(format!("auto-instance-profile-{}", process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("report.html");
        write_whole(&file, "one").unwrap();
        write_whole(&file, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
        // A directory cannot be replaced by a file.
        assert!(write_whole(&dir, "three").is_err());
        assert!(write_whole(&dir.join("none").join("report.html"), "three").is_err());
        let beside = fs::read_dir(dir.parent().unwrap()).unwrap();
        let name = dir.file_name().unwrap().to_str().unwrap();
        let ours = beside
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains(name));
        assert_eq!(ours.count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
