//! Which rules can match an instance at all: found by one tag of each rule, so that a policy of a thousand rules costs an
//! instance a few look-ups and not a thousand comparisons.

use std::collections::{BTreeMap, HashMap};

use crate::model::Tags;
use crate::policy::pattern::Pattern;
use crate::policy::rule::Rule;

/// The rules' places in the policy, by a tag that each of them demands.
#[derive(Debug, Clone, Default)]
pub struct Index {
    by_key: HashMap<String, OfKey>,
    /// Rules that name no tag by its whole key.
    without_tags: Vec<usize>,
}

#[derive(Debug, Clone, Default)]
struct OfKey {
    by_value: HashMap<String, Vec<usize>>,
    /// Rules with wildcards, by what a value must begin with to match, and before that by how long that is: few lengths
    /// occur, so a value is looked up a few times, however many rules there are.
    by_beginning: BTreeMap<usize, HashMap<String, Vec<usize>>>,
}

impl Index {
    /// Sorts rules by what they demand. Of several tags the one is taken whose values the fewest rules demand: a rule for
    /// one application in production is found by the application, not by "production".
    #[must_use]
    pub fn of(rules: &[Rule]) -> Self {
        let mut demanded: HashMap<(&str, &str), usize> = HashMap::new();
        for rule in rules {
            for (key, value) in
                literals(rule).into_iter().flat_map(|(key, values)| with(key, values))
            {
                *demanded.entry((key, value)).or_default() += 1;
            }
        }
        let mut index = Self::default();
        for (place, rule) in rules.iter().enumerate() {
            let commonness = |(key, values): &(&str, Vec<&str>)| -> usize {
                values.iter().filter_map(|value| demanded.get(&(*key, *value))).sum()
            };
            if let Some((key, values)) = literals(rule).into_iter().min_by_key(commonness) {
                let of_key = index.by_key.entry(key.to_owned()).or_default();
                for value in values {
                    of_key.by_value.entry(value.to_owned()).or_default().push(place);
                }
            } else if let Some((key, any_of)) = rule.matching.tags.iter().next() {
                let of_key = index.by_key.entry(key.clone()).or_default();
                for beginning in any_of.0.iter().map(Pattern::beginning) {
                    let of_length = of_key.by_beginning.entry(beginning.len()).or_default();
                    of_length.entry(beginning.to_owned()).or_default().push(place);
                }
            } else {
                index.without_tags.push(place);
            }
        }
        index
    }

    /// The places of the rules that may match an instance with these tags, in the policy's order.
    #[must_use]
    pub fn candidates(&self, tags: &Tags) -> Vec<usize> {
        let mut places = self.without_tags.clone();
        for (key, value) in tags {
            let Some(of_key) = self.by_key.get(key) else { continue };
            for (length, of_length) in of_key.by_beginning.range(..=value.len()) {
                let begins = value.get(..*length).and_then(|beginning| of_length.get(beginning));
                places.extend(begins.into_iter().flatten());
            }
            places.extend(of_key.by_value.get(value).into_iter().flatten());
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// The tags of which a rule demands one of certain values, no wildcards among them.
fn literals(rule: &Rule) -> Vec<(&str, Vec<&str>)> {
    let tags = rule.matching.tags.iter();
    tags.filter_map(|(key, any_of)| {
        let values: Option<Vec<&str>> = any_of.0.iter().map(|pattern| pattern.literal()).collect();
        Some((key.as_str(), values?))
    })
    .collect()
}

fn with<'a>(key: &'a str, values: Vec<&'a str>) -> impl Iterator<Item = (&'a str, &'a str)> {
    values.into_iter().map(move |value| (key, value))
}
