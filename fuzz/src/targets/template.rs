//! Templates: what comes out is made of the tags' values and the template's own text, and only a legal profile gets on.

use super::plain;
use auto_instance_profile::allow::AllowList;
use auto_instance_profile::model::{
    AccountId, Instance, InstanceId, InstanceState, Keeper, Platform, Region, Tags,
};
use auto_instance_profile::policy::rule::{Manner, Match, Rule, Skipped, Subject, Target};
use auto_instance_profile::policy::template::Template;
use auto_instance_profile::policy::{Demand, InvalidProfile, Policy};

/// A first line with the template, then lines of `KEY=VALUE`.
pub fn template(data: &[u8]) {
    let text = plain::text(data);
    let mut lines = text.split('\n');
    let written = lines.next().unwrap_or_default();
    let tags: Tags = lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let expected = expand(written, &tags);
    let template = match Template::parse(written) {
        Ok(template) => template,
        Err(bad) => {
            assert!(!bad.to_string().is_empty());
            return;
        }
    };
    assert_eq!(Template::parse(&template.to_string()).as_ref(), Ok(&template), "{written:?}");
    assert_eq!(template.to_string(), written, "nothing is lost");
    let filled = template.expand(&tags);
    assert_eq!(filled, expected.expect("what is not closed is refused"), "{written:?}");
    assert!(template.tag_keys().all(|key| written.contains(key)));
    assert!(template.literal().is_none_or(|only| only == written && filled.as_deref() == Ok(only)));
    check_requirement(template, &tags, filled);
}

/// What a policy of one rule makes of it.
fn check_requirement(template: Template, tags: &Tags, filled: Result<String, String>) {
    const ACCOUNT: &str = "123456789012";
    let (Ok(account), Ok(region), Ok(id), Ok(allowed)) = (
        AccountId::parse(ACCOUNT),
        Region::parse("us-east-1"),
        InstanceId::parse("i-1"),
        AllowList::parse("web,app/*,shop-*"),
    ) else {
        unreachable!("they are legal")
    };
    let instance = Instance {
        id,
        account: None,
        state: InstanceState::Running,
        tags: tags.clone(),
        keeper: Keeper::Owner,
        vpc: None,
        subnet: None,
        instance_type: None,
        platform: Platform::Linux,
        started: None,
    };
    let subject =
        Subject { account: Some(&account), region: &region, instance: &instance, attached: None };
    let rule = Rule {
        name: "rule".to_owned(),
        matching: Match::default(),
        target: Target::Profile(template),
        manner: Manner::default(),
        when_stopped: None,
    };
    let policy = Policy::new(Vec::new(), vec![rule], allowed);
    let legal =
        |text: &str| plain::is_name(text) || plain::path_and_name_of(text, ACCOUNT).is_some();
    match (policy.requirement(&subject).demand, filled) {
        (Demand::Unmanaged { only_rule }, Err(key)) => {
            assert_eq!(only_rule, Some(Skipped::TemplateTagAbsent { key }));
        }
        (Demand::Named(wanted) | Demand::NotAllowed(wanted), Ok(filled)) => {
            assert!(plain::is_profile(&wanted, &filled, ACCOUNT), "{filled:?}: {wanted}");
            assert!(legal(&filled), "{filled:?}");
        }
        (Demand::Invalid(why), Ok(filled)) => {
            assert!(!legal(&filled), "{filled:?}: {why}");
            assert_eq!(matches!(why, InvalidProfile::Empty { .. }), filled.is_empty());
        }
        (demand, filled) => panic!("{filled:?}: {demand:?}"),
    }
}

/// The template filled in by hand; `None` where a `${` is not closed or holds no tag, else the text, or the key that lacks.
fn expand(written: &str, tags: &Tags) -> Option<Result<String, String>> {
    let mut out = String::new();
    let mut absent = None;
    let mut rest = written;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let length = rest[start..].find('}')?;
        let key = rest[start + 2..start + length].strip_prefix("tag:")?;
        match tags.get(key) {
            Some(value) => out.push_str(value),
            None => absent = absent.or(Some(key.to_owned())),
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    Some(absent.map_or(Ok(out), Err))
}
