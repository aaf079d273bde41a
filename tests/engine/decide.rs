//! Every row of the decision table in docs/SEMANTICS.md, by its number.

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::decide::{Decision, Patience, decide, decide_for_debt, decide_unseen};
use auto_instance_profile::model::{
    AccountId, Association, AssociationId, AssociationState, Instance, InstanceFacts, InstanceId,
    InstanceState, Keeper, Platform, Profile, ProfileArn, ProfileId, Region, Role, Tags,
};
use auto_instance_profile::policy::rule::{Subject, WhenStopped};
use auto_instance_profile::policy::{Demand, Policy, file};

const ARN_OUTSIDE: &str = "arn:aws:iam::123456789012:instance-profile/x/web";
const TRUSTING: &str = r#"{"Statement":{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}}"#;

fn policy() -> Policy {
    Policy::named_by_tag("InstanceProfile", AllowList::parse("web,db,app/*").unwrap())
}

fn facts(state: &str, tag: Option<&str>) -> InstanceFacts {
    let tags: Tags =
        tag.iter().map(|value| ("InstanceProfile".to_owned(), (*value).to_owned())).collect();
    let instance = Instance {
        id: InstanceId::parse("i-0123456789abcdef0").unwrap(),
        account: None,
        state: InstanceState::from_ec2(state),
        tags,
        keeper: Keeper::Owner,
        vpc: None,
        subnet: None,
        instance_type: None,
        platform: Platform::Linux,
        started: None,
    };
    InstanceFacts { instance, association: None }
}

fn having(mut facts: InstanceFacts, name: &str, id: &str, state: &str) -> InstanceFacts {
    facts.association = Some(Association {
        id: AssociationId::parse("iip-assoc-1").unwrap(),
        instance: facts.instance.id.clone(),
        profile_arn: arn(name).to_string(),
        profile_id: Some(ProfileId::parse(id).unwrap()),
        state: AssociationState::from_ec2(state),
        since: Some(1),
    });
    facts
}

fn managed(mut facts: InstanceFacts) -> InstanceFacts {
    facts.instance.keeper = Keeper::Service(Some("eks.amazonaws.com".into()));
    facts
}

fn arn(path_and_name: &str) -> ProfileArn {
    ProfileArn::parse(&format!("arn:aws:iam::123456789012:instance-profile/{path_and_name}"))
        .unwrap()
}

fn profile(path_and_name: &str) -> Profile {
    let role = Role { name: "r".into(), trust_policy: Some(TRUSTING.into()) };
    Profile { arn: arn(path_and_name), id: ProfileId::parse("AIPA1").unwrap(), role: Some(role) }
}

/// What the reconciler does, without a cloud: decide, let IAM answer, decide again.
fn decided(facts: &InstanceFacts, iam: Option<Profile>) -> Decision {
    decided_by(&policy(), facts, iam)
}

fn decided_by(policy: &Policy, facts: &InstanceFacts, iam: Option<Profile>) -> Decision {
    let account = AccountId::parse("123456789012").unwrap();
    let region = Region::parse("us-east-1").unwrap();
    let subject = Subject {
        account: Some(&account),
        region: &region,
        instance: &facts.instance,
        attached: None,
    };
    let requirement = policy.requirement(&subject);
    if let Decision::LookUp(wanted) = decide(&requirement, facts) {
        return decide(&policy.settle(requirement, &wanted, iam), facts);
    }
    decide(&requirement, facts)
}

#[test]
#[expect(clippy::large_stack_arrays, reason = "the table is long, and read once")]
fn every_row_of_the_table() {
    let web = || Some(profile("web"));
    let bare = |state| facts(state, Some("web"));
    let no_role = || Some(Profile { role: None, ..profile("web") });
    let not_ec2 = || {
        let role =
            Role { name: "r".into(), trust_policy: Some(TRUSTING.replace("ec2.", "lambda.")) };
        Some(Profile { role: Some(role), ..profile("web") })
    };
    let tagged = |value| facts("running", Some(value));
    let other_account = "arn:aws:iam::111122223333:instance-profile/web";
    let other_partition = "arn:aws-cn:iam::123456789012:instance-profile/web";
    let role_arn = "arn:aws:iam::123456789012:role/web";
    let web_arn = "arn:aws:iam::123456789012:instance-profile/web";
    let admin = || Some(profile("admin"));
    let moved = || Some(profile("secret/web"));
    for (row, code, facts, iam) in [
        (1, "unmanaged", facts("running", None), web()),
        (1, "unmanaged", having(facts("running", None), "web", "AIPA1", "associated"), web()),
        (1, "unmanaged", facts("terminated", None), web()),
        (2, "invalid-profile", tagged(""), web()),
        (2, "invalid-profile", tagged("a b"), web()),
        (2, "invalid-profile", tagged("app/web"), web()),
        (2, "invalid-profile", tagged(" web"), web()),
        (2, "invalid-profile", tagged("w\u{435}b"), web()),
        (2, "invalid-profile", tagged(role_arn), web()),
        (2, "invalid-profile", tagged(other_account), web()),
        (2, "invalid-profile", tagged(other_partition), web()),
        (2, "invalid-profile", tagged(web_arn), moved()),
        (3, "not-allowed", tagged("admin"), admin()),
        (3, "not-allowed", tagged("arn:aws:iam::123456789012:instance-profile/x/web"), web()),
        (3, "not-allowed", having(tagged("admin"), "web", "AIPA1", "associated"), admin()),
        (3, "not-allowed", facts("terminated", Some(ARN_OUTSIDE)), web()),
        (3, "not-allowed", tagged("web"), moved()),
        (4, "gone", bare("terminated"), web()),
        (4, "gone", bare("shutting-down"), web()),
        (5, "instance-state", bare("pending"), web()),
        (5, "instance-state", bare("stopping"), None),
        (5, "instance-state", managed(bare("pending")), web()),
        (5, "instance-state", bare("hibernating"), web()),
        (6, "managed-by-service", managed(bare("running")), web()),
        (
            6,
            "managed-by-service",
            managed(having(bare("stopped"), "db", "AIPA2", "associated")),
            web(),
        ),
        (7, "bare", bare("running"), web()),
        (7, "bare", bare("stopped"), web()),
        (7, "bare", tagged(web_arn), web()),
        (8, "right", having(bare("running"), "web", "AIPA1", "associated"), web()),
        (8, "right", having(bare("running"), "web", "AIPA1", "associating"), web()),
        (8, "right", having(bare("stopped"), "web", "AIPA1", "associating"), web()),
        (9, "other-profile", having(bare("running"), "db", "AIPA2", "associated"), web()),
        (9, "other-profile", having(bare("running"), "app/web", "AIPA2", "associating"), web()),
        (19, "instance-stopped", having(bare("stopped"), "db", "AIPA2", "associated"), web()),
        (19, "instance-stopped", having(bare("stopped"), "web", "AIPA0", "associated"), web()),
        (11, "profile-recreated", having(bare("running"), "web", "AIPA0", "associated"), web()),
        (12, "profile-unknown", bare("running"), None),
        (12, "profile-unknown", having(bare("stopped"), "db", "AIPA2", "associated"), None),
        (13, "no-role", bare("running"), no_role()),
        (13, "role-does-not-trust-ec2", bare("stopped"), not_ec2()),
        (13, "no-role", having(bare("running"), "web", "AIPA1", "associated"), no_role()),
    ] {
        let decision = decided(&facts, iam);
        assert_eq!(
            (decision.row(), decision.reason_code()),
            (Some(row), code),
            "{facts:?}: {decision}"
        );
    }
}

#[test]
fn a_rule_that_swaps_waits_for_nothing_on_a_stopped_instance() {
    let policy = policy().with_when_stopped_default(WhenStopped::Swap);
    let stopped = || facts("stopped", Some("web"));
    for (row, code, facts) in [
        (10, "other-profile", having(stopped(), "db", "AIPA2", "associated")),
        (10, "profile-recreated", having(stopped(), "web", "AIPA0", "associated")),
        (8, "right", having(stopped(), "web", "AIPA1", "associating")),
        (7, "bare", stopped()),
        (9, "other-profile", having(facts("running", Some("web")), "db", "AIPA2", "associated")),
    ] {
        let decision = decided_by(&policy, &facts, Some(profile("web")));
        assert_eq!((decision.row(), decision.reason_code()), (Some(row), code), "{facts:?}");
    }
}

#[test]
fn a_rule_that_keeps_others_watches_its_own_profile() {
    let checked = file::check(RULES, &AllowList::parse("web,db").unwrap());
    let policy = checked.policy.unwrap();
    let no_role = || Some(Profile { role: None, ..profile("web") });
    for (row, code, id, iam) in [
        (8, "right", "AIPA1", Some(profile("web"))),
        (11, "profile-recreated", "AIPA0", Some(profile("web"))),
        (13, "no-role", "AIPA1", no_role()),
        (12, "profile-unknown", "AIPA1", None),
    ] {
        let gaps = tagged_by(&[("Rule", "gaps")], "running");
        let facts = having(gaps, "web", id, "associated");
        let decision = decided_by(&policy, &facts, iam);
        assert_eq!((decision.row(), decision.reason_code()), (Some(row), code), "{decision}");
    }
    let moved = having(tagged_by(&[("Rule", "gaps")], "running"), "x/web", "AIPA1", "associated");
    assert_eq!(decided_by(&policy, &moved, Some(profile("web"))).row(), Some(15));
}

#[test]
fn what_a_swap_took_away_is_made_good_whatever_the_rule_says() {
    let checked = file::check(RULES, &AllowList::parse("web,db").unwrap());
    let policy = checked.policy.unwrap();
    let old = arn("db").to_string();
    let unusable = || Some(Profile { role: None, ..profile("web") });
    for (row, code, facts, iam) in [
        (7, "bare", tagged_by(&[("Rule", "corrects")], "stopped"), Some(profile("web"))),
        (7, "bare", tagged_by(&[("Rule", "gaps")], "running"), Some(profile("web"))),
        (20, "swap-unfinished", tagged_by(&[("Rule", "corrects")], "stopped"), None),
        (20, "swap-unfinished", tagged_by(&[("Rule", "corrects")], "stopped"), unusable()),
        (20, "swap-unfinished", tagged_by(&[], "stopped"), None),
        (20, "swap-unfinished", tagged_by(&[("eks:cluster-name", "c")], "stopped"), None),
        (4, "gone", tagged_by(&[("Rule", "corrects")], "terminated"), Some(profile("web"))),
        (5, "instance-state", tagged_by(&[("Rule", "corrects")], "pending"), Some(profile("web"))),
    ] {
        let region = Region::parse("us-east-1").unwrap();
        let subject =
            Subject { account: None, region: &region, instance: &facts.instance, attached: None };
        let mut requirement = policy.requirement(&subject);
        if let Decision::LookUp(wanted) = decide_for_debt(&requirement, &facts, &old) {
            requirement = policy.settle(requirement, &wanted, iam);
        }
        let decision = decide_for_debt(&requirement, &facts, &old);
        assert_eq!((decision.row(), decision.reason_code()), (Some(row), code), "{facts:?}");
    }
}

#[test]
fn row_4_unseen_instances_are_waited_for_and_then_given_up() {
    assert_eq!(decide_unseen(Patience::Fresh).reason_code(), "instance-unseen");
    assert_eq!(decide_unseen(Patience::Exhausted).reason_code(), "never-seen");
    assert_eq!(decide_unseen(Patience::Exhausted).row(), Some(4));
}

#[test]
fn a_name_is_resolved_before_it_is_matched() {
    let facts = facts("running", Some("web-prod"));
    assert_eq!(decided(&facts, Some(profile("app/web-prod"))).row(), Some(7));
    assert_eq!(decided(&facts, Some(profile("web-prod"))).row(), Some(3));
}

#[test]
fn an_answer_of_another_name_is_never_attached() {
    let facts = facts("running", Some("web"));
    assert_eq!(decided(&facts, Some(profile("db"))).row(), Some(2));
}

#[test]
fn the_association_in_force_is_the_newest_that_is_not_on_its_way_out() {
    let row = |id: &str, state: &str, since: i128| Association {
        id: AssociationId::parse(id).unwrap(),
        instance: InstanceId::parse("i-0123456789abcdef0").unwrap(),
        profile_arn: arn("web").to_string(),
        profile_id: None,
        state: AssociationState::from_ec2(state),
        since: Some(since),
    };
    let in_force =
        |rows: Vec<Association>| Association::in_force(rows).map(|row| row.id.to_string());
    assert_eq!(in_force(vec![]), None);
    assert_eq!(in_force(vec![row("old", "disassociating", 2)]), None);
    assert_eq!(
        in_force(vec![row("old", "disassociating", 2), row("new", "associating", 2)]),
        Some("new".into())
    );
    assert_eq!(
        in_force(vec![row("new", "associating", 2), row("old", "associated", 1)]),
        Some("new".into())
    );
    assert_eq!(in_force(vec![row("odd", "no-such-state", 1)]), Some("odd".into()));
}

#[test]
fn an_unsettled_requirement_is_looked_up_only_where_a_profile_could_be_attached() {
    let requirement = |facts: &InstanceFacts| {
        let region = Region::parse("us-east-1").unwrap();
        let subject =
            Subject { account: None, region: &region, instance: &facts.instance, attached: None };
        policy().requirement(&subject)
    };
    for (state, expected) in [("running", "look-up"), ("pending", "wait"), ("terminated", "leave")]
    {
        let facts = facts(state, Some("web"));
        assert!(matches!(requirement(&facts).demand, Demand::Named(_)));
        assert_eq!(decide(&requirement(&facts), &facts).word(), expected);
    }
}

const RULES: &str = r#"
version: 1
ignore:
  - tags: { "eks:cluster-name": "*" }
rules:
  - name: gaps
    match: { tags: { Rule: gaps } }
    profile: web
    when-different: keep
  - name: corrects
    match: { tags: { Rule: corrects } }
    profile: web
    when-absent: leave
  - name: retired
    match: { tags: { Rule: retired } }
    profile: none
"#;

fn tagged_by(pairs: &[(&str, &str)], state: &str) -> InstanceFacts {
    let mut facts = facts(state, None);
    let tags = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    facts.instance.tags = tags.collect();
    facts
}

#[test]
fn every_row_that_only_a_policy_file_brings() {
    let checked = file::check(RULES, &AllowList::parse("web,db").unwrap());
    let policy = checked.policy.unwrap();
    let rule = |name, state| tagged_by(&[("Rule", name)], state);
    let with_db = |facts| having(facts, "db", "AIPA2", "associated");
    let ignored = tagged_by(&[("Rule", "gaps"), ("eks:cluster-name", "c")], "running");
    for (row, code, facts) in [
        (14, "ignored-by-policy", ignored.clone()),
        (14, "ignored-by-policy", managed(with_db(ignored))),
        (15, "fills-gaps-only", with_db(rule("gaps", "running"))),
        (15, "fills-gaps-only", with_db(rule("gaps", "stopped"))),
        (7, "bare", rule("gaps", "running")),
        (16, "corrects-only", rule("corrects", "running")),
        (9, "other-profile", with_db(rule("corrects", "running"))),
        (19, "instance-stopped", with_db(rule("corrects", "stopped"))),
        (8, "right", rule("retired", "running")),
        (5, "instance-state", with_db(rule("retired", "stopping"))),
        (6, "managed-by-service", managed(with_db(rule("retired", "running")))),
    ] {
        let decision = decided_by(&policy, &facts, Some(profile("web")));
        assert_eq!((decision.row(), decision.reason_code()), (Some(row), code), "{facts:?}");
    }
    let retired = with_db(rule("retired", "running"));
    let region = Region::parse("us-east-1").unwrap();
    let subject =
        Subject { account: None, region: &region, instance: &retired.instance, attached: None };
    let once = policy.requirement(&subject);
    assert_eq!(decide(&once, &retired).row(), None, "one read of the tags is not enough");
    let agreeing = retired.instance.tags.clone();
    for (second_read, row) in [(agreeing, 17), (Tags::new(), 18)] {
        let confirmed = policy.confirm(once.clone(), &subject, &second_read);
        assert_eq!(decide(&confirmed, &retired).row(), Some(row));
    }
}

#[test]
fn an_instance_without_any_tag_is_never_stripped() {
    let yaml = "version: 1\nrules: [{ name: bare, match: { platform: linux }, profile: none }]";
    let policy = file::check(yaml, &AllowList::parse("*").unwrap()).policy.unwrap();
    let untagged = having(facts("running", None), "db", "AIPA2", "associated");
    assert_eq!(decided_by(&policy, &untagged, None).reason_code(), "tags-doubtful");
}
