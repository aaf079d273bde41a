//! The settings, as far as they name a policy file.

use std::io::ErrorKind;

use auto_instance_profile::config::Config;
use auto_instance_profile::policy::rule::WhenStopped;

#[test]
fn a_policy_file_is_read_and_refused_by_its_name() {
    let read = |yaml: Option<&str>| {
        Config::read(
            |name| match name {
                "ALLOWED_PROFILES" => Some("web".to_owned()),
                "POLICY_FILE" => Some("/etc/policy.yaml".to_owned()),
                _ => None,
            },
            |file| {
                assert_eq!(file, "/etc/policy.yaml");
                yaml.map(str::to_owned).ok_or_else(|| ErrorKind::NotFound.into())
            },
        )
    };
    let rule = |fields: &str| format!("version: 1\nrules:\n  - {{ name: a, {fields} }}\n");
    let config = read(Some(&rule("match: {}, profile: web, when-different: keep"))).unwrap();
    assert_eq!((config.policy.rules()[0].name.as_str(), config.warnings.len()), ("a", 0));
    let config = read(Some(&rule("match: {}, profile: admin, when-different: keep"))).unwrap();
    assert!(config.warnings[0].starts_with("/etc/policy.yaml:3:"), "{:?}", config.warnings);
    let refused = |yaml: Option<&str>| read(yaml).unwrap_err().to_string();
    assert_eq!(
        refused(None),
        "POLICY_FILE is \"/etc/policy.yaml\", which cannot be read; it takes the path of a policy file"
    );
    let two = refused(Some(&rule("match: { platform: macos, account: '12' }, profile: web")));
    let lines: Vec<&str> = two.lines().collect();
    assert_eq!(lines[0], "the policy of POLICY_FILE cannot be used");
    assert_eq!(lines.len(), 3, "{two}");
    assert!(lines[1..].iter().all(|line| line.starts_with("/etc/policy.yaml:3:")), "{two}");
    let whole = refused(Some(&"x".repeat(1_000_001)));
    assert!(whole.contains("\n/etc/policy.yaml: error: "), "{whole}");
}

#[test]
fn the_setting_for_stopped_instances_reaches_silent_rules() {
    let read = |setting: Option<&str>, file: Option<&str>| {
        Config::read(
            |name| match name {
                "ALLOWED_PROFILES" => Some("web".to_owned()),
                "POLICY_FILE" => file.map(str::to_owned),
                "WHEN_STOPPED" => setting.map(str::to_owned),
                _ => None,
            },
            |file| Ok(file.to_owned()),
        )
    };
    let said = |setting: Option<&str>, file: Option<&str>| -> Vec<WhenStopped> {
        let policy = read(setting, file).unwrap().policy;
        policy.rules().iter().map(|rule| rule.manner.when_stopped).collect()
    };
    let (wait, swap) = (WhenStopped::Wait, WhenStopped::Swap);
    let rules = "{version: 1, rules: [
        {name: a, match: {tags: {A: x}}, profile: web},
        {name: b, match: {tags: {A: y}}, profile: web, when-stopped: wait},
        {name: c, match: {tags: {A: z}}, profile: web, when-stopped: swap}]}";
    for (setting, silent) in [(None, wait), (Some("wait"), wait), (Some("swap"), swap)] {
        assert_eq!(said(setting, None), [silent], "the built-in policy");
        assert_eq!(said(setting, Some(rules)), [silent, wait, swap]);
    }
    for bad in ["", "Swap", "stop", "swap "] {
        let message = read(Some(bad), None).unwrap_err().to_string();
        let parts = [&format!("WHEN_STOPPED is {bad:?}"), "wait or swap"];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_tag_key_is_one_that_a_person_can_write() {
    let read = |key: &str| {
        Config::read(
            |name| match name {
                "ALLOWED_PROFILES" => Some("web".to_owned()),
                "PROFILE_TAG_KEY" => Some(key.to_owned()),
                _ => None,
            },
            |_| unreachable!("no policy file is named"),
        )
    };
    assert!(read(&"k".repeat(128)).is_ok_and(|config| config.policy.reads_tag(&"k".repeat(128))));
    for key in ["", "a\nb", "a\u{fffd}b", "AWS:x", &"k".repeat(129)] {
        assert!(read(key).is_err(), "{key:?}");
    }
}
