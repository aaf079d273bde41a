//! `replay`: dead letters back to their queue. A letter is removed only once its message is in the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use auto_instance_profile::failure::{MALFORMED, chain};
use auto_instance_profile::model::Region;
use auto_instance_profile::queue::{DeadLetters, Letter, QueueError};
use serde::Serialize;
use tokio::time::Instant;

use crate::args::ReplayArgs;
use crate::ask::{self, Stop};
use crate::fleet::region_in;
use crate::letters::{Dead, GroupJson, Parcel, groups, named_in_vain, parcels, read, table};
use crate::output::Output;
use crate::session;
use crate::show::{BAD, FAINT, GOOD, HEADING, Progress, UNSURE, counted, printable, write_json};
use crate::{End, Trouble, since_1970, wait_for};

/// How long a letter that was taken is hidden from others: time to read the table and to answer.
const TAKEN_FOR: Duration = Duration::from_mins(15);
/// How long letters are taken, so that the first of them are still hidden when the answer comes.
const TAKING_FOR: Duration = Duration::from_mins(5);
/// Messages sent between two looks at whether to stop.
const MESSAGES_AT_ONCE: usize = 10;

pub fn run(args: &ReplayArgs, stop: &Stop, out: &mut impl Output) -> Result<End, Trouble> {
    if args.queue == args.dead_letter_queue {
        let why = "--queue and --dead-letter-queue name the same queue";
        return Err(Trouble::Usage(why.to_owned()));
    }
    if !args.yes && !ask::can_ask() {
        let left_alone = "nothing was replayed";
        return Err(Trouble::NobodyToAsk { command: "replay", left_alone });
    }
    let region = region_of(args)?;
    wait_for(async {
        let clouds = session::open(region.as_ref()).await?;
        let region = region.or_else(|| clouds.region()).ok_or(Trouble::NoRegion)?;
        let queues = clouds.letters(&region, &args.dead_letter_queue, &args.queue);
        let replay = Replay { queues: &queues, args, stop };
        // From the first letter on that is taken: it must be put back.
        stop.work_begins();
        let letters = match replay.take().await {
            Ok(letters) => letters,
            Err(error) => {
                // An answer of AWS's, even a refusal, has a code, and took credentials.
                if error.code.is_none() {
                    clouds.check_credentials().await.map_err(Trouble::NoCredentials)?;
                }
                return Err(Trouble::Letters(error));
            }
        };
        if letters.is_empty() && replay.is_stopped() {
            writeln!(out, "Nothing was replayed.")?;
            out.settle(None)?;
            return Ok(End::Wrong);
        }
        replay.deal_with(letters, &region, out).await
    })
}

/// The Region that is asked for, or else the one that the URLs name.
fn region_of(args: &ReplayArgs) -> Result<Option<Region>, Trouble> {
    if let Some(region) = &args.region {
        return Ok(Some(region.clone()));
    }
    match (region_in(&args.dead_letter_queue), region_in(&args.queue)) {
        (Some(one), Some(other)) if one != other => Err(Trouble::Usage(format!(
            "the dead-letter queue is in {one} and the queue in {other}; they belong to one stack, and so to one Region"
        ))),
        (one, other) => Ok(one.or(other)),
    }
}

/// A queue's name in its URL.
fn name_in(url: &str) -> String {
    printable(url.trim_end_matches('/').rsplit('/').next().unwrap_or_default())
}

/// A dead-letter queue, what is to be done with its letters, and whether to stop.
struct Replay<'a, Q> {
    queues: &'a Q,
    args: &'a ReplayArgs,
    stop: &'a Stop,
}

impl<Q: DeadLetters> Replay<'_, Q> {
    fn is_stopped(&self) -> bool {
        self.stop.is_asked()
    }

    /// Takes letters until the queue shows no more, or as many as are asked for.
    async fn take(&self) -> Result<Vec<Letter>, QueueError> {
        let progress = Progress::new();
        let most =
            self.args.max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let end = Instant::now() + TAKING_FOR;
        // SQS may deliver one twice; then the second handle counts.
        let mut letters: BTreeMap<String, Letter> = BTreeMap::new();
        while letters.len() < most && !self.is_stopped() && Instant::now() < end {
            progress.say(&format!("Taking dead letters: {}", letters.len()));
            let known = letters.len();
            match self.queues.take(most - known, TAKEN_FOR).await {
                Ok(taken) => {
                    letters.extend(taken.into_iter().map(|letter| (letter.id.clone(), letter)));
                }
                Err(error) => {
                    let receipts: Vec<_> =
                        letters.values().map(|letter| letter.receipt.as_str()).collect();
                    self.put_back(&receipts).await;
                    return Err(error);
                }
            }
            if letters.len() == known {
                break;
            }
        }
        Ok(letters.into_values().collect())
    }

    async fn put_back(&self, receipts: &[&str]) {
        let results = self.queues.put_back(receipts).await;
        let failed = results.iter().filter(|result| result.is_err()).count();
        if let Some(Err(error)) = results.iter().find(|result| result.is_err()) {
            // It is said for those who look for them meanwhile.
            let _ = writeln!(
                anstream::stderr(),
                "{UNSURE}{} that stay are hidden for up to {} minutes: {}{UNSURE:#}",
                counted(failed, "letter"),
                TAKEN_FOR.as_secs() / 60,
                printable(&chain(error))
            );
        }
    }

    /// Shows the letters, asks, sends them again, and puts back what stays.
    async fn deal_with(
        &self,
        letters: Vec<Letter>,
        region: &Region,
        out: &mut impl Output,
    ) -> Result<End, Trouble> {
        let only = &self.args.only;
        let letters = read(letters, region, only);
        let parcels = parcels(&letters);
        let shown = self
            .show(&letters, &parcels, region, out)
            .and_then(|()| out.settle(Some(self.stop)))
            .map_err(|why| Trouble::Unwritten { why, ended: "Nothing was replayed".to_owned() });
        let chosen: usize = parcels.iter().map(|parcel| parcel.receipts.len()).sum();
        // Whatever goes wrong from here on: what stays is to be seen again at once.
        let answer = shown.and_then(|()| {
            if chosen == 0 || self.is_stopped() || self.args.yes {
                return Ok(chosen > 0 && !self.is_stopped());
            }
            let to = name_in(&self.args.queue);
            let question = format!("Send {} to {to}?", counted(parcels.len(), "message"));
            Ok(ask::says_yes(&question, self.stop)?)
        });
        let mut done = Done::default();
        if matches!(answer, Ok(true)) {
            done = self.send(&parcels).await;
        }
        let gone: BTreeSet<_> = done.sent.iter().copied().collect();
        let receipts = letters.iter().map(|dead| dead.letter.receipt.as_str());
        let stay: Vec<_> = receipts.filter(|receipt| !gone.contains(receipt)).collect();
        self.put_back(&stay).await;
        self.stop.work_is_over();
        let is_wanted = answer?;
        let held_back = letters.len() - chosen;
        let now = since_1970();
        let summary = Summary {
            region: region.as_str(),
            dead_letter_queue: &self.args.dead_letter_queue,
            queue: &self.args.queue,
            letters: letters.len(),
            replayed: done.sent.len() - done.not_removed,
            messages: done.messages,
            held_back,
            not_sent: done.not_sent,
            not_removed: done.not_removed,
            not_begun: chosen - done.sent.len() - done.not_sent,
            errors: done.errors.into_iter().collect(),
            groups: groups(&letters).iter().map(|group| group.json(now)).collect(),
        };
        if self.args.json {
            write_json(&summary, out)?;
        } else if !letters.is_empty() {
            summary.write(is_wanted, out)?;
        }
        out.settle(None).map_err(|why| Trouble::Unwritten { why, ended: summary.sentence() })?;
        // What cannot be read waits for a person; what was not asked for waits for another command.
        let is_all =
            summary.replayed == chosen && (held_back == 0 || !only.is_empty() && chosen > 0);
        Ok(if is_all { End::Done } else { End::Wrong })
    }

    fn show(
        &self,
        letters: &[Dead],
        parcels: &[Parcel<'_>],
        region: &Region,
        out: &mut impl Write,
    ) -> io::Result<()> {
        if self.args.json {
            return Ok(());
        }
        let (from, to) = (name_in(&self.args.dead_letter_queue), name_in(&self.args.queue));
        let number = counted(letters.len(), "dead letter");
        if letters.is_empty() {
            return writeln!(out, "{GOOD}There is no dead letter in {from}.{GOOD:#}");
        }
        writeln!(out, "{HEADING}{number} in {from}{HEADING:#}, {region}\n")?;
        writeln!(out, "{}\n", table(&groups(letters), since_1970()))?;
        let chosen: usize = parcels.iter().map(|parcel| parcel.receipts.len()).sum();
        let stay = match letters.len() - chosen {
            0 => String::new(),
            1 => "; 1 would stay".to_owned(),
            number => format!("; {number} would stay"),
        };
        writeln!(
            out,
            "{} would be sent to {to} as {}{stay}.",
            counted(chosen, "letter"),
            counted(parcels.len(), "message")
        )?;
        let (in_vain, types) = named_in_vain(letters, &self.args.only);
        if !in_vain.is_empty() {
            let types: Vec<_> = types.into_iter().map(printable).collect();
            writeln!(
                out,
                "{UNSURE}No letter is of the type {}; there are {}.{UNSURE:#}",
                printable(&in_vain.join(", ")),
                types.join(", ")
            )?;
        }
        if self.args.only.is_empty() && !stay.is_empty() {
            writeln!(
                out,
                "{FAINT}What cannot be read is replayed only by --only {MALFORMED}.{FAINT:#}"
            )?;
        }
        Ok(())
    }

    /// Sends each message, and removes its letters once it is in the queue.
    async fn send<'p>(&self, parcels: &[Parcel<'p>]) -> Done<'p> {
        let progress = Progress::new();
        let mut done = Done::default();
        for chunk in parcels.chunks(MESSAGES_AT_ONCE) {
            if self.is_stopped() {
                break;
            }
            progress.say(&format!("Sending messages: {} of {}", done.messages, parcels.len()));
            let bodies: Vec<_> = chunk.iter().map(|parcel| parcel.body).collect();
            let results = self.queues.send_again(&bodies).await;
            let mut safe: Vec<&'p str> = Vec::new();
            for (parcel, result) in chunk.iter().zip(results) {
                match result {
                    Ok(()) => {
                        done.messages += 1;
                        safe.extend(&parcel.receipts);
                    }
                    Err(error) => {
                        done.not_sent += parcel.receipts.len();
                        done.errors.insert(chain(&error));
                    }
                }
            }
            for error in self.queues.remove(&safe).await.into_iter().filter_map(Result::err) {
                done.not_removed += 1;
                done.errors.insert(chain(&error));
            }
            // A queue that takes none of them is not asked for the rest.
            let is_refused = safe.is_empty();
            done.sent.extend(safe);
            if is_refused {
                break;
            }
        }
        done
    }
}

/// What was sent.
#[derive(Default)]
struct Done<'a> {
    messages: usize,
    /// Receipts of letters whose message is in the queue.
    sent: Vec<&'a str>,
    /// Of these, letters that are in the dead-letter queue too.
    not_removed: usize,
    /// Letters whose message is not in the queue, as far as the answer says.
    not_sent: usize,
    errors: BTreeSet<String>,
}

/// How a replay ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary<'a> {
    region: &'a str,
    dead_letter_queue: &'a str,
    queue: &'a str,
    /// How many were there, or were taken.
    letters: usize,
    /// Sent, and removed from the dead-letter queue.
    replayed: usize,
    /// What was sent for them.
    messages: usize,
    /// Not to be replayed.
    held_back: usize,
    not_sent: usize,
    /// Sent, and still in the dead-letter queue.
    not_removed: usize,
    /// Left out after an interrupt, or because the queue took nothing.
    not_begun: usize,
    errors: Vec<String>,
    groups: Vec<GroupJson>,
}

impl Summary<'_> {
    fn sentence(&self) -> String {
        let mut text = format!(
            "Replayed {} as {}",
            counted(self.replayed, "letter"),
            counted(self.messages, "message")
        );
        for (number, what) in [
            (self.not_sent, "not sent, and still there"),
            (self.not_removed, "sent, and still there"),
            (self.not_begun, "not begun"),
            (self.held_back, "held back"),
        ] {
            if number > 0 {
                // Writing to a string cannot fail.
                let _ = write!(text, ", {number} {what}");
            }
        }
        text
    }

    fn write(&self, is_wanted: bool, out: &mut impl Write) -> io::Result<()> {
        if !is_wanted {
            return writeln!(out, "Nothing was replayed.");
        }
        let is_all_sent = self.not_sent + self.not_removed + self.not_begun == 0;
        let style = if is_all_sent { GOOD } else { BAD };
        writeln!(out, "{style}{}.{style:#}", self.sentence())?;
        for error in &self.errors {
            writeln!(out, "{BAD}      {}{BAD:#}", printable(error))?;
        }
        if self.not_removed > 0 {
            writeln!(
                out,
                "{FAINT}A message that is sent twice does no harm: the second time all is done.{FAINT:#}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::args::{Cli, Command};

    /// Queues in memory, of which calls may fail for some.
    #[derive(Default)]
    struct Double {
        letters: Mutex<Vec<Letter>>,
        taken: Mutex<Vec<Letter>>,
        sent: Mutex<Vec<String>>,
        put_back: Mutex<Vec<String>>,
        removed: Mutex<Vec<String>>,
        /// Bodies that are not sent.
        refuses: Vec<String>,
        /// Receipts that are not removed.
        keeps: Vec<String>,
        /// Raised once a message is sent.
        stop: Stop,
        stops: bool,
    }

    fn refused() -> Result<(), QueueError> {
        Err(QueueError::new("SomeCall", Some("Refused".to_owned()), "on purpose"))
    }

    fn note(
        list: &Mutex<Vec<String>>,
        given: &[&str],
        not: &[String],
    ) -> Vec<Result<(), QueueError>> {
        let each = given.iter().map(|text| {
            if not.iter().any(|not| not == text) {
                return refused();
            }
            list.lock().unwrap().push((*text).to_owned());
            Ok(())
        });
        each.collect()
    }

    impl DeadLetters for Double {
        async fn take(&self, at_most: usize, _: Duration) -> Result<Vec<Letter>, QueueError> {
            let mut letters = self.letters.lock().unwrap();
            let number = at_most.min(10).min(letters.len());
            let taken: Vec<_> = letters.drain(..number).collect();
            self.taken.lock().unwrap().extend(taken.clone());
            Ok(taken)
        }

        async fn put_back(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
            note(&self.put_back, receipts, &[])
        }

        async fn send_again(&self, bodies: &[&str]) -> Vec<Result<(), QueueError>> {
            if self.stops {
                self.stop.ask();
            }
            note(&self.sent, bodies, &self.refuses)
        }

        async fn remove(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
            let sent = self.sent.lock().unwrap().len();
            assert!(receipts.is_empty() || sent > 0, "nothing is removed before it is sent");
            note(&self.removed, receipts, &self.keeps)
        }
    }

    fn about(id: &str) -> String {
        format!(r#"{{"instance-ids":["{id}"]}}"#)
    }

    fn letter(number: usize, body: &str, attributes: &[(&str, &str)]) -> Letter {
        let attributes =
            attributes.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        Letter {
            id: format!("id-{number:04}"),
            receipt: format!("receipt-{number}"),
            body: body.to_owned(),
            attributes: attributes.collect(),
            receives: 1,
            sent_ms: Some(1_000 * u64::try_from(number).unwrap()),
        }
    }

    fn denied(number: usize, id: &str) -> Letter {
        let error = format!(
            "instance {id}: the caller needs iam:PassRole on arn:aws:ec2:us-east-1:123456789012:instance/{id}"
        );
        letter(number, &about(id), &[("ErrorType", "Denied"), ("Error", &error)])
    }

    fn args(more: &[&str]) -> ReplayArgs {
        let line = [
            "tool",
            "replay",
            "--dead-letter-queue",
            "https://q/1/dead",
            "--queue",
            "https://q/1/live",
        ];
        let Command::Replay(args) = Cli::try_parse_from(line.iter().chain(more)).unwrap().command
        else {
            panic!("another command");
        };
        args
    }

    fn replay(queues: &Double, more: &[&str]) -> (End, Value) {
        let args = args(&[more, &["--yes", "--json"]].concat());
        let mut out = Vec::new();
        let end = wait_for(async {
            let replay = Replay { queues, args: &args, stop: &queues.stop };
            let letters = replay.take().await.unwrap();
            let region = Region::parse("us-east-1").unwrap();
            replay.deal_with(letters, &region, &mut out).await.unwrap()
        });
        (end, serde_json::from_slice(&out).unwrap())
    }

    #[test]
    fn letters_that_ask_for_the_same_are_sent_once_and_all_removed() {
        let event = |state: &str| {
            json!({
                "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "version": "0",
                "id": "x", "account": "123456789012", "region": "us-east-1", "time": "2026-11-21T18:00:00Z",
                "resources": [], "detail": {"instance-id": "i-0a", "state": state},
            })
            .to_string()
        };
        let dry = r#"{"instance-ids":["i-0b"],"dry-run":true}"#;
        let queues = Double {
            letters: Mutex::new(vec![
                letter(1, &event("pending"), &[]),
                letter(2, &event("running"), &[]),
                denied(3, "i-0b"),
                letter(4, dry, &[]),
                // Of another account, as far as anybody knows.
                denied(5, "i-0a"),
                letter(6, r#"{"sweep":{}}"#, &[]),
                letter(7, r#"{"sweep":{}}"#, &[]),
            ]),
            ..Double::default()
        };
        let (end, said) = replay(&queues, &[]);
        assert_eq!(end, End::Done);
        assert_eq!(
            (&said["letters"], &said["replayed"], &said["messages"]),
            (&json!(7), &json!(7), &json!(5))
        );
        let (running, sweep) = (event("running"), r#"{"sweep":{}}"#.to_owned());
        assert_eq!(
            *queues.sent.lock().unwrap(),
            [running, about("i-0b"), dry.to_owned(), about("i-0a"), sweep]
        );
        assert_eq!(queues.removed.lock().unwrap().len(), 7);
        assert!(queues.put_back.lock().unwrap().is_empty());
    }

    #[test]
    fn what_is_not_sent_is_not_removed() {
        let queues = Double {
            letters: Mutex::new(
                (0..25).map(|number| denied(number, &format!("i-{number:x}"))).collect(),
            ),
            refuses: vec![about("i-3"), about("i-18")],
            keeps: vec!["receipt-7".to_owned()],
            ..Double::default()
        };
        let (end, said) = replay(&queues, &[]);
        assert_eq!(end, End::Wrong);
        let counts = ["letters", "replayed", "messages", "not-sent", "not-removed", "not-begun"];
        assert_eq!(counts.map(|name| said[name].as_u64().unwrap()), [25, 22, 23, 2, 1, 0]);
        assert_eq!(said["errors"], json!(["SomeCall failed (Refused): on purpose"]));
        let removed = queues.removed.lock().unwrap();
        for kept in ["receipt-3", "receipt-24", "receipt-7"] {
            assert!(!removed.iter().any(|receipt| receipt == kept), "{kept}");
        }
        assert_eq!(*queues.put_back.lock().unwrap(), ["receipt-3", "receipt-24"]);
    }

    #[test]
    fn what_the_function_wrote_to_itself_is_sent_as_it_is() {
        let swap = r#"{"finish-swap":{"instance-id":"i-0a","region":"us-east-1","profile":"arn:aws:iam::123456789012:instance-profile/old","association-id":"iip-assoc-1"}}"#;
        let queues = Double {
            letters: Mutex::new(vec![
                letter(1, swap, &[]),
                denied(2, "i-0a"),
                letter(3, swap, &[]),
            ]),
            ..Double::default()
        };
        let (end, said) = replay(&queues, &[]);
        assert_eq!((end, &said["replayed"]), (End::Done, &json!(3)));
        assert_eq!(*queues.sent.lock().unwrap(), [about("i-0a"), swap.to_owned()]);
        assert_eq!(said["groups"][0]["instances"], json!(["i-0a"]));
    }

    #[test]
    fn what_cannot_be_read_stays_unless_it_is_named() {
        let letters = || {
            vec![
                denied(1, "i-0a"),
                letter(2, "{", &[("ErrorType", "MalformedEvent"), ("Error", "no JSON")]),
                letter(3, &about("i-0b"), &[("ErrorType", "Rejected"), ("Error", "x")]),
            ]
        };
        for (only, sent, end) in [
            (&[][..], vec![about("i-0a"), about("i-0b")], End::Wrong),
            (&["--only", "MalformedEvent"], vec!["{".to_owned()], End::Done),
            (&["--only", "denied,REJECTED"], vec![about("i-0a"), about("i-0b")], End::Done),
            (
                &["--only", "Denied", "--only", "MalformedEvent"],
                vec![about("i-0a"), "{".to_owned()],
                End::Done,
            ),
            (&["--only", "Conflict"], vec![], End::Wrong),
        ] {
            let queues = Double { letters: Mutex::new(letters()), ..Double::default() };
            let (ended, said) = replay(&queues, only);
            assert_eq!((ended, &*queues.sent.lock().unwrap()), (end, &sent), "{only:?}");
            assert_eq!(said["held-back"], 3 - sent.len(), "{only:?}");
            assert_eq!(queues.put_back.lock().unwrap().len(), 3 - sent.len(), "{only:?}");
        }
    }

    #[test]
    fn an_interrupt_leaves_everything_safe() {
        let letters = (0..25).map(|number| denied(number, &format!("i-{number:x}")));
        let queues =
            Double { letters: Mutex::new(letters.collect()), stops: true, ..Double::default() };
        let (end, said) = replay(&queues, &[]);
        assert_eq!(
            (end, &said["replayed"], &said["not-begun"]),
            (End::Wrong, &json!(10), &json!(15))
        );
        assert_eq!(queues.removed.lock().unwrap().len(), 10);
        assert_eq!(queues.put_back.lock().unwrap().len(), 15);
        // Before anything was taken.
        let queues = Double { letters: Mutex::new(vec![denied(1, "i-0a")]), ..Double::default() };
        queues.stop.ask();
        replay(&queues, &[]);
        assert!(queues.taken.lock().unwrap().is_empty() && queues.sent.lock().unwrap().is_empty());
    }

    #[test]
    fn no_more_is_taken_than_is_asked_for() {
        let letters = (0..25).map(|number| denied(number, &format!("i-{number:x}")));
        let queues = Double { letters: Mutex::new(letters.collect()), ..Double::default() };
        let (end, said) = replay(&queues, &["--max", "12"]);
        assert_eq!((end, &said["replayed"]), (End::Done, &json!(12)));
        assert_eq!(queues.letters.lock().unwrap().len(), 13);
        let nothing = replay(&Double::default(), &[]);
        assert_eq!((nothing.0, &nothing.1["letters"]), (End::Done, &json!(0)));
    }

    #[test]
    fn a_queues_url_names_its_region() {
        for (url, region) in [
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/x", Some("eu-west-1")),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123456789012/x", Some("cn-north-1")),
            ("https://sqs-fips.us-gov-west-1.amazonaws.com/123456789012/x", Some("us-gov-west-1")),
            ("https://eu-west-1.queue.amazonaws.com/123456789012/x", Some("eu-west-1")),
            ("http://127.0.0.1:5000/123456789012/x", None),
            ("http://localhost/123456789012/x", None),
        ] {
            let found = region_in(url);
            assert_eq!(found.as_ref().map(Region::as_str), region, "{url}");
        }
        let mut args = args(&[]);
        args.queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/x".to_owned();
        args.dead_letter_queue = "https://sqs.eu-west-2.amazonaws.com/123456789012/x".to_owned();
        assert!(matches!(region_of(&args), Err(Trouble::Usage(_))));
        args.region = Region::parse("eu-west-3").ok();
        assert_eq!(region_of(&args).unwrap(), args.region);
    }
}
