//! Dead letters: what each is about, why it was given up, and which of them ask for the same.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use auto_instance_profile::event::{Caller, Origin, Payload, Reader, Reading};
use auto_instance_profile::failure::{MALFORMED, chain};
use auto_instance_profile::model::{Detached, InstanceId, InstanceRef, Region};
use auto_instance_profile::queue::Letter;
use auto_instance_profile::verification::Verification;
use comfy_table::{Cell, Color};
use serde::Serialize;

use crate::show::{self, or_dash, printable, shortened, written};

/// The type of a letter that says nothing about itself: the queue gave it up.
const GIVEN_UP_BY_THE_QUEUE: &str = "Unknown";
/// Instances that a table's line names.
const NAMED: usize = 2;

/// A letter, and what can be said about it.
pub struct Dead {
    pub letter: Letter,
    /// Whether it is to be sent again.
    pub is_chosen: bool,
    /// The failure's type, a stable word.
    error_type: String,
    /// The failure in full, the instance left out.
    error: String,
    about: About,
    request: Request,
}

/// What a letter is about, for a person.
#[derive(Debug, PartialEq, Eq)]
enum About {
    Instances(BTreeSet<InstanceId>),
    /// In words.
    Other(String),
}

/// What the function would be asked for by a letter: several that ask for the same are one message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Look {
        instances: BTreeSet<InstanceRef>,
        /// What was named and is none; it brings the letter back.
        illegal: BTreeSet<String>,
        dry_run: bool,
    },
    /// Anything else, as it is written.
    Text(String),
}

/// Reads letters as the function would that is in this Region. Without a choice of types, all are chosen but those that
/// cannot be read.
pub fn read(letters: Vec<Letter>, region: &Region, only: &[String]) -> Vec<Dead> {
    let caller = Caller { account: None, region: Some(region.clone()), role: None };
    letters.into_iter().map(|letter| Dead::read(letter, &caller, only)).collect()
}

impl Dead {
    fn read(letter: Letter, caller: &Caller, only: &[String]) -> Self {
        // Which tags matter is the policy's business, and that may have changed.
        let reading = Reader { caller, reads_tag: &|_| true }.read(&letter.body);
        let (about, request) = match &reading {
            Ok(Payload::Single(Reading::Trigger(trigger))) => {
                let instances = trigger.targets.iter().map(|target| target.instance.clone());
                let instances: BTreeSet<_> = instances.collect();
                let ids = instances.iter().map(|instance| instance.id.clone()).collect();
                let dry_run = trigger.origin == Origin::Person { dry_run: true };
                let illegal = trigger.illegal.iter().map(|illegal| illegal.found.clone()).collect();
                (About::Instances(ids), Request::Look { instances, illegal, dry_run })
            }
            Ok(Payload::Single(
                Reading::FinishSwap(Detached { instance, .. })
                | Reading::Verify(Verification { instance, .. }),
            )) => {
                // It says more than which instance: it is sent as it is.
                let ids = BTreeSet::from([instance.id.clone()]);
                (About::Instances(ids), Request::Text(letter.body.clone()))
            }
            Ok(Payload::Single(Reading::Sweep(_))) => {
                (About::Other("a sweep".to_owned()), Request::Text(letter.body.clone()))
            }
            Ok(Payload::Single(Reading::Ignored(why))) => {
                (About::Other(why.to_string()), Request::Text(letter.body.clone()))
            }
            Ok(Payload::Batch(_)) | Err(_) => {
                let about = format!("no event: {}", excerpt(&letter.body));
                (About::Other(about), Request::Text(letter.body.clone()))
            }
        };
        // The function's names, then those of EventBridge and of its scheduler.
        let said = |ours: &str, theirs: &str| {
            let attribute = |name| letter.attributes.get(name).filter(|text| !text.is_empty());
            attribute(ours).or_else(|| attribute(theirs)).cloned()
        };
        let (error_type, error) = match &reading {
            Ok(Payload::Single(_)) => (
                said("ErrorType", "ERROR_CODE").unwrap_or(GIVEN_UP_BY_THE_QUEUE.to_owned()),
                said("Error", "ERROR_MESSAGE").unwrap_or(
                    "nothing is said: the queue gave it up after too many receives".to_owned(),
                ),
            ),
            Ok(Payload::Batch(_)) => {
                (MALFORMED.to_owned(), "the payload is a batch inside a message".to_owned())
            }
            Err(why) => (MALFORMED.to_owned(), chain(why)),
        };
        let error = match (&about, error.split_once(": ")) {
            (About::Instances(ids), Some((subject, rest)))
                if ids.iter().any(|id| subject == format!("instance {id}")) =>
            {
                rest.to_owned()
            }
            (About::Instances(_) | About::Other(_), _) => error,
        };
        let is_chosen =
            if only.is_empty() { error_type != MALFORMED } else { is_one_of(&error_type, only) };
        Self { letter, is_chosen, error_type, error, about, request }
    }
}

/// Whether a type of error is among those that were named, in whatever case.
fn is_one_of(error_type: &str, only: &[String]) -> bool {
    only.iter().any(|named| named.eq_ignore_ascii_case(error_type))
}

/// Of the types that were named those that no letter has, and the types that there are.
pub fn named_in_vain<'a>(
    letters: &'a [Dead],
    only: &'a [String],
) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let types: BTreeSet<_> = letters.iter().map(|dead| dead.error_type.as_str()).collect();
    let is_there = |named: &str| types.iter().any(|there| there.eq_ignore_ascii_case(named));
    let in_vain = only.iter().map(String::as_str).filter(|named| !is_there(named)).collect();
    (in_vain, types)
}

/// The beginning of a text from outside.
fn excerpt(text: &str) -> String {
    const ENOUGH: usize = 60;
    let cut = text.char_indices().nth(ENOUGH);
    cut.map_or(text.to_owned(), |(cut, _)| format!("{}…", &text[..cut]))
}

/// An error without what is different each time: of 300 letters about one missing right each names another instance.
fn masked(error: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '…');
    let mut masked = String::with_capacity(error.len());
    for piece in error.split_inclusive(|c| !is_part(c)) {
        let word = piece.trim_end_matches(|c| !is_part(c));
        masked.push_str(mask(word).unwrap_or(word));
        masked.push_str(&piece[word.len()..]);
    }
    masked
}

/// What stands for a word that is an id.
fn mask(word: &str) -> Option<&'static str> {
    /// An encoded message of AWS's, or a request's id.
    const LONG: usize = 40;
    let is_uuid = word.len() == 36 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if InstanceId::parse(word).is_ok() {
        Some("i-…")
    } else if word.starts_with("iip-assoc-") {
        Some("iip-assoc-…")
    } else if word.len() >= LONG || is_uuid {
        Some("…")
    } else {
        None
    }
}

/// Letters that say the same.
pub struct Group<'a> {
    letters: Vec<&'a Dead>,
    is_chosen: bool,
}

/// The same for a program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GroupJson {
    error_type: String,
    error: String,
    letters: usize,
    /// Whether they are to be replayed.
    chosen: bool,
    instances: Vec<String>,
    oldest_s: Option<u64>,
    most_receives: u32,
}

impl Group<'_> {
    /// What all of them say: in full, where that is the same.
    fn error(&self) -> String {
        let first = &self.letters[0].error;
        let is_the_same = self.letters.iter().all(|dead| dead.error == *first);
        if is_the_same { first.clone() } else { masked(first) }
    }

    fn instances(&self) -> BTreeSet<&InstanceId> {
        let ids = self.letters.iter().filter_map(|dead| match &dead.about {
            About::Instances(ids) => Some(ids),
            About::Other(_) => None,
        });
        ids.flatten().collect()
    }

    fn about(&self) -> String {
        let instances = self.instances();
        let named = instances.iter().take(NAMED).map(ToString::to_string);
        let others: BTreeSet<_> = self
            .letters
            .iter()
            .filter_map(|dead| match &dead.about {
                About::Other(what) => Some(printable(what)),
                About::Instances(_) => None,
            })
            .collect();
        let all = instances.len() + others.len();
        let mut named: Vec<_> = named.chain(others).collect();
        named.truncate(NAMED);
        match all - named.len() {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        }
    }

    fn oldest(&self, now: Duration) -> Option<Duration> {
        let sent = self.letters.iter().filter_map(|dead| dead.letter.sent_ms).min()?;
        Some(now.saturating_sub(Duration::from_millis(sent)))
    }

    fn receives(&self) -> u32 {
        self.letters.iter().map(|dead| dead.letter.receives).max().unwrap_or_default()
    }

    pub fn json(&self, now: Duration) -> GroupJson {
        GroupJson {
            error_type: self.letters[0].error_type.clone(),
            error: self.error(),
            letters: self.letters.len(),
            chosen: self.is_chosen,
            instances: self.instances().into_iter().map(ToString::to_string).collect(),
            oldest_s: self.oldest(now).map(|age| age.as_secs()),
            most_receives: self.receives(),
        }
    }
}

/// Letters by what they say: those first that are to be replayed, and of these the largest groups.
pub fn groups(letters: &[Dead]) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(&str, String), Group<'_>> = BTreeMap::new();
    for dead in letters {
        let group = groups
            .entry((&dead.error_type, masked(&dead.error)))
            .or_insert_with(|| Group { letters: Vec::new(), is_chosen: dead.is_chosen });
        group.letters.push(dead);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| (Reverse(group.is_chosen), Reverse(group.letters.len())));
    groups
}

/// A message to be sent, and the letters that it stands for.
pub struct Parcel<'a> {
    pub body: &'a str,
    pub receipts: Vec<&'a str>,
}

/// One message for each request; of several the newest.
pub fn parcels(letters: &[Dead]) -> Vec<Parcel<'_>> {
    let mut by_request: BTreeMap<&Request, Vec<&Dead>> = BTreeMap::new();
    for dead in letters.iter().filter(|dead| dead.is_chosen) {
        by_request.entry(&dead.request).or_default().push(dead);
    }
    let mut parcels: Vec<_> = by_request
        .into_values()
        .filter_map(|same| {
            let newest = same.iter().max_by_key(|dead| dead.letter.sent_ms)?;
            let receipts = same.iter().map(|dead| dead.letter.receipt.as_str()).collect();
            Some((newest.letter.sent_ms, Parcel { body: &newest.letter.body, receipts }))
        })
        .collect();
    // The oldest first, as they would have come.
    parcels.sort_by_key(|(sent_ms, _)| *sent_ms);
    parcels.into_iter().map(|(_, parcel)| parcel).collect()
}

/// Groups of letters, one a line.
pub fn table(groups: &[Group<'_>], now: Duration) -> String {
    let mut table =
        show::table(&["LETTERS", "ERROR", "ABOUT", "OLDEST", "RECEIVED", "ACTION", "WHY"]);
    for group in groups {
        table.add_row([
            Cell::new(group.letters.len()),
            Cell::new(printable(&group.letters[0].error_type)),
            Cell::new(or_dash(Some(group.about()))),
            Cell::new(or_dash(group.oldest(now).map(age))),
            Cell::new(group.receives()),
            if group.is_chosen {
                Cell::new("replay").fg(Color::Green)
            } else {
                Cell::new("stay").fg(Color::Yellow)
            },
            Cell::new(shortened(&group.error())),
        ]);
    }
    written(table)
}

/// An age in the largest unit that it is several of, or nearly.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (unit, name) = match seconds {
        0..120 => (1, "s"),
        120..7_200 => (60, "min"),
        7_200..172_800 => (3_600, "h"),
        172_800.. => (86_400, "d"),
    };
    format!("{} {name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(number: u32, body: &str, attributes: &[(&str, &str)]) -> Dead {
        let attributes =
            attributes.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let letter = Letter {
            id: number.to_string(),
            receipt: number.to_string(),
            body: body.to_owned(),
            attributes: attributes.collect(),
            receives: 1,
            sent_ms: Some(1_000),
        };
        super::read(vec![letter], &Region::parse("us-east-1").unwrap(), &[]).pop().unwrap()
    }

    fn about(id: &str) -> String {
        format!(r#"{{"instance-ids":["{id}"]}}"#)
    }

    #[test]
    fn letters_about_one_missing_right_are_one_line() {
        let letters = (0..300).map(|number| {
            let id = format!("i-{number:017x}");
            let error =
                format!("instance {id}: the caller needs iam:PassRole on arn:aws:ec2:us-east-1:123456789012:instance/{id}");
            read(number, &about(&id), &[("ErrorType", "Denied"), ("Error", &error)])
        });
        let letters: Vec<_> = letters.collect();
        let groups = groups(&letters);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].about(), "i-00000000000000000, i-00000000000000001 and 298 more");
        assert_eq!(
            groups[0].error(),
            "the caller needs iam:PassRole on arn:aws:ec2:us-east-1:123456789012:instance/i-…"
        );
        let text = table(&groups, Duration::from_secs(4000));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("300") && text.contains("66 min"), "{text}");
    }

    #[test]
    fn what_differs_each_time_is_masked_and_nothing_else() {
        for (error, said) in [
            ("instance i-0abc: x", "instance i-…: x"),
            ("(i-0abc, i-0def)", "(i-…, i-…)"),
            ("iip-assoc-0123 is gone", "iip-assoc-… is gone"),
            ("arn:aws:iam::123456789012:role/web-i-x", "arn:aws:iam::123456789012:role/web-i-x"),
            ("request 59dbff89-35bd-4eac-99ed-be0e30000001.", "request …."),
            ("ünï i-0abc – ", "ünï i-… – "),
            ("", ""),
        ] {
            assert_eq!(masked(error), said);
        }
        assert_eq!(masked(&format!("message: {}", "aB3_-".repeat(100))), "message: …");
    }

    #[test]
    fn whoever_gave_a_letter_up_is_understood() {
        let said = |body: &str, attributes: &[(&str, &str)]| {
            let dead = read(1, body, attributes);
            (dead.error_type, dead.error)
        };
        let is = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let undelivered = [("ERROR_CODE", "NO_PERMISSIONS"), ("ERROR_MESSAGE", "not allowed")];
        assert_eq!(said(&about("i-0a"), &undelivered), is("NO_PERMISSIONS", "not allowed"));
        assert_eq!(said(r#"{"sweep":{}}"#, &undelivered).0, "NO_PERMISSIONS");
        assert_eq!(said(&about("i-0a"), &[]).0, "Unknown");
        // What cannot be read is that, whatever its attributes say.
        assert_eq!(said("{", &[("ErrorType", "Denied")]).0, MALFORMED);
        assert_eq!(said(r#"{"Records":[]}"#, &[]).0, MALFORMED);
        let (_, error) =
            said(&about("i-0a"), &[("ErrorType", "Denied"), ("Error", "instance i-0b: x")]);
        assert_eq!(error, "instance i-0b: x", "of another instance the name stays");
    }

    #[test]
    fn ages_are_told_in_a_unit_that_fits() {
        let told = [0, 119, 120, 7_199, 7_200, 172_799, 172_800, 1_209_600]
            .map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d", "14 d"]);
    }
}
