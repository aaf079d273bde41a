//! Rules that do something else than they seem to.

use crate::policy::attached::{self, Attached};
use crate::policy::index::Index;
use crate::policy::pattern::{AnyOf, Effort, Pattern};
use crate::policy::rule::{Match, Rule, Target, WhenAbsent, WhenDifferent};

/// A rule's place among the rules, counted from 0, and what is doubtful about it.
type Doubt = (usize, String);

/// Tags that Kubernetes nodes carry, by what makes the nodes; one tag of each is enough to know such a node. A node whose
/// profile is replaced falls out of its cluster.
const NODES: [&[(&str, &str)]; 3] = [
    &[("karpenter.sh/nodepool", "*"), ("eks:eks-cluster-name", "*")],
    &[("eks:cluster-name", "*"), ("eks:nodegroup-name", "*")],
    &[("kubernetes.io/cluster/*", "owned")],
];

/// What is doubtful about these rules.
pub(super) fn doubts(ignore: &[Match], rules: &[Rule]) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut effort = Effort::default();
    for (number, rule) in rules.iter().enumerate() {
        let ends = ends_itself(rule, &mut effort);
        let of_rule = [does_nothing(rule), replaces_everything(rule), ends];
        doubts.extend(of_rule.into_iter().flatten().map(|doubt| (number, doubt)));
    }
    doubts.extend(replaces_nodes(ignore, rules));
    doubts.extend(never_reached(rules));
    doubts
}

fn does_nothing(rule: &Rule) -> Option<String> {
    let keeps = rule.manner.when_different == WhenDifferent::Keep;
    let leaves = rule.manner.when_absent == WhenAbsent::Leave;
    (keeps && leaves).then(|| {
        format!("the rule {:?} does nothing: it keeps every profile and fills no gap", rule.name)
    })
}

/// Whether it changes what is attached, and not only where nothing is.
fn replaces(rule: &Rule) -> bool {
    rule.manner.when_different == WhenDifferent::Replace
}

fn replaces_everything(rule: &Rule) -> Option<String> {
    let Target::Profile(template) = &rule.target else { return None };
    let everywhere = template.literal().is_some() && rule.matching.is_about_every_profile();
    (replaces(rule) && everywhere).then(|| {
        format!(
            "the rule {:?} replaces every profile there is; name what it is about, or write when-different: keep",
            rule.name
        )
    })
}

/// A rule that asks for what is attached may no longer match once it has done its work. What decides then is easily
/// overlooked: a later rule, which may undo it, or none, so that nobody watches over it.
fn ends_itself(rule: &Rule, effort: &mut Effort) -> Option<String> {
    let asked_for = rule.matching.attached.as_ref()?;
    let (own, done) = match &rule.target {
        Target::Nothing => (attached::NONE.to_owned(), "taken the profile away"),
        Target::Profile(template) => {
            let whole = template.with_tags_as("*");
            (attached::path_and_name(&whole).to_owned(), "attached its profile")
        }
    };
    if asked_for.covers(&Attached::of([own.as_str()]), effort) || effort.is_spent() {
        return None;
    }
    let name = &rule.name;
    Some(format!(
        "once the rule {name:?} has {done} it no longer matches, and a later rule decides, or none; add {own:?} to \
         attached (to fill gaps only, write when-different: keep, and no attached)"
    ))
}

/// One warning for the file: the first rule that may replace the profiles of nodes, and the tags to ignore.
fn replaces_nodes(ignore: &[Match], rules: &[Rule]) -> Option<Doubt> {
    let open: Vec<_> = NODES
        .iter()
        .filter(|tags| !tags.iter().any(|(key, value)| is_ignored(ignore, key, value)))
        .collect();
    if open.is_empty() {
        return None;
    }
    let nodes: Vec<_> =
        NODES.iter().flat_map(|tags| *tags).map(|(key, _)| Pattern::new(key)).collect();
    let number = rules.iter().position(|rule| may_be_about_nodes(rule, &nodes))?;
    let tags = open.iter().map(|tags| {
        let tags = tags.iter().map(|(key, value)| format!("{key:?}: {value:?}"));
        tags.collect::<Vec<_>>().join(" or ")
    });
    let message = format!(
        "the rule {:?} may replace the profile of a Kubernetes node, which then falls out of its cluster; let ignore \
         name the tags of nodes: {}",
        rules[number].name,
        tags.collect::<Vec<_>>().join("; ")
    );
    Some((number, message))
}

/// Whether a rule may take a node's profile without having been written about nodes.
fn may_be_about_nodes(rule: &Rule, nodes: &[Pattern]) -> bool {
    let named_by_a_tag = match &rule.target {
        // Whoever sets a tag that holds nothing but a profile's name means this very instance.
        Target::Profile(template) => template.only_tag().is_some(),
        Target::Nothing => false,
    };
    let keys = rule.matching.tags.keys().map(String::as_str);
    let patterns = rule.matching.tag_patterns.iter().map(|tag| tag.key.text());
    let about_nodes = keys.chain(patterns).any(|key| nodes.iter().any(|node| node.matches(key)));
    replaces(rule) && !named_by_a_tag && !about_nodes && rule.matching.attached.is_none()
}

/// Whether an entry of `ignore` asks for nothing but this tag.
fn is_ignored(ignore: &[Match], key: &str, value: &str) -> bool {
    let (key, value) = (Pattern::new(key), Pattern::new(value));
    // A tag of a node is never empty.
    let covers = |values: &AnyOf| {
        let is_enough =
            |ours: &Pattern| ours.text() == "?*" || ours.covers(&value, &mut Effort::default());
        values.0.iter().any(is_enough)
    };
    ignore.iter().any(|entry| {
        let others = !entry.traits.is_empty() || entry.attached.is_some();
        match (entry.tags.iter().next(), entry.tag_patterns.as_slice()) {
            _ if others || entry.tags.len() + entry.tag_patterns.len() != 1 => false,
            (Some((ours, values)), _) => ours == key.text() && covers(values),
            (None, patterns) => patterns
                .iter()
                .all(|tag| tag.key.covers(&key, &mut Effort::default()) && covers(&tag.values)),
        }
    })
}

/// Warns of each rule that an earlier one leaves no instance for. A rule that leaves it none decides, too, about the
/// instance with the first of its values, patterns taken as they are written: so the index finds it.
fn never_reached(rules: &[Rule]) -> Vec<Doubt> {
    let index = Index::of(rules);
    let mut effort = Effort::default();
    let mut doubts = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let first_of = |(key, any_of): (&String, &AnyOf)| {
            Some((key.clone(), any_of.0.first()?.text().to_owned()))
        };
        let candidates =
            index.candidates(&rule.matching.tags.iter().filter_map(first_of).collect());
        effort.spend(2 * candidates.len());
        let mut earlier = candidates.into_iter().take_while(|candidate| *candidate < number);
        let shadow = earlier.find(|candidate| rules[*candidate].shadows(rule, &mut effort));
        if let Some(earlier) = shadow {
            let message = format!(
                "the rule {:?} is never reached: {:?} before it matches every instance that it matches",
                rule.name, rules[earlier].name
            );
            doubts.push((number, message));
        }
        if effort.is_spent() {
            let message = format!(
                "from the rule {:?} on, it was not looked for rules that are never reached: there are too many \
                 patterns to compare",
                rule.name
            );
            doubts.push((number, message));
            return doubts;
        }
    }
    doubts
}
