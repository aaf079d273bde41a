//! What people and their filters read: every word, reason code and sentence, as it is written.

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::backoff::WaitsFor;
use auto_instance_profile::cloud::{CloudError, ErrorKind, MissingRight, Operation};
use auto_instance_profile::decide::{Decision, Different, Leave, Wait};
use auto_instance_profile::model::{
    AccountId, Association, AssociationId, AssociationState, Illegal, InstanceId, InstanceState,
    Profile, ProfileArn, ProfileId, ProfileName, ProfileRef,
};
use auto_instance_profile::policy::file::{MAX_BYTES, check};
use auto_instance_profile::policy::rule::{Mismatch, Skipped, Trait};
use auto_instance_profile::policy::{InvalidProfile, Unusable};

fn arn(name: &str) -> ProfileArn {
    ProfileArn::parse(&format!("arn:aws:iam::123456789012:instance-profile/{name}")).unwrap()
}

fn named(name: &str) -> ProfileRef {
    ProfileRef::Name(ProfileName::parse(name).unwrap())
}

fn profile(name: &str) -> Profile {
    Profile { arn: arn(name), id: ProfileId::parse("AIPA1").unwrap(), role: None }
}

fn attached(name: &str, id: Option<&str>) -> Association {
    Association {
        id: AssociationId::parse("iip-assoc-1").unwrap(),
        instance: InstanceId::parse("i-1").unwrap(),
        profile_arn: arn(name).to_string(),
        profile_id: id.map(|id| ProfileId::parse(id).unwrap()),
        state: AssociationState::Associated,
        since: None,
    }
}

fn absent() -> Skipped {
    Skipped::Mismatch(Mismatch::TagAbsent { key: "App".into() })
}

#[test]
#[expect(clippy::too_many_lines, reason = "the table is long")]
fn every_decision_has_its_words() {
    let other = Different::OtherProfile;
    let again = Different::Recreated;
    let (web, db, old) = (profile("web"), attached("db", Some("AIPA2")), attached("web", None));
    let db_arn = "arn:aws:iam::123456789012:instance-profile/db";
    let replace =
        |from: &Association, why| Decision::Replace { from: from.clone(), to: web.clone(), why };
    let swap =
        |from: &Association, why| Decision::Swap { from: from.clone(), to: web.clone(), why };
    let leave = Decision::Leave;
    for (decision, writes, word, code, sentence) in [
        (
            leave(Leave::Unmanaged { only_rule: Some(absent()) }),
            false,
            "leave",
            "unmanaged",
            "no rule matches: the instance has no tag App",
        ),
        (
            leave(Leave::Unmanaged { only_rule: None }),
            false,
            "leave",
            "unmanaged",
            "no rule of the policy matches",
        ),
        (
            leave(Leave::Invalid(InvalidProfile::Empty { source: "the tag App".into() })),
            false,
            "leave",
            "invalid-profile",
            "the tag App is empty; it must be an instance profile's name or ARN",
        ),
        (
            leave(Leave::NotAllowed(named("db"))),
            false,
            "leave",
            "not-allowed",
            "no pattern of ALLOWED_PROFILES allows the instance profile db",
        ),
        (
            leave(Leave::Gone(InstanceState::Terminated)),
            false,
            "leave",
            "gone",
            "the instance is terminated",
        ),
        (leave(Leave::NeverSeen), false, "leave", "never-seen", "EC2 does not know the instance"),
        (
            leave(Leave::ManagedByService(Some("eks.amazonaws.com".into()))),
            false,
            "leave",
            "managed-by-service",
            "the instance is managed by eks.amazonaws.com",
        ),
        (
            leave(Leave::ManagedByService(None)),
            false,
            "leave",
            "managed-by-service",
            "the instance is managed by an AWS service",
        ),
        (
            leave(Leave::Unusable { profile: arn("db"), why: Unusable::NoRole }),
            false,
            "leave",
            "no-role",
            "arn:aws:iam::123456789012:instance-profile/db is of no use: it holds no role, so the instance would get no credentials",
        ),
        (
            leave(Leave::Unusable {
                profile: arn("db"),
                why: Unusable::RoleDoesNotTrustEc2 { role: "r".into() },
            }),
            false,
            "leave",
            "role-does-not-trust-ec2",
            "arn:aws:iam::123456789012:instance-profile/db is of no use: its role r does not let ec2.amazonaws.com assume it, so the instance would get no credentials",
        ),
        (
            leave(Leave::Ignored { entry: 2 }),
            false,
            "leave",
            "ignored-by-policy",
            "entry 2 of the policy's ignore list matches the instance",
        ),
        (
            leave(Leave::FillsGapsOnly { attached: db_arn.into() }),
            false,
            "leave",
            "fills-gaps-only",
            "arn:aws:iam::123456789012:instance-profile/db is attached, and the rule keeps what is there (when-different: keep)",
        ),
        (
            leave(Leave::CorrectsOnly),
            false,
            "leave",
            "corrects-only",
            "nothing is attached, and the rule leaves that so (when-absent: leave)",
        ),
        (
            leave(Leave::TagsDoubtful),
            false,
            "leave",
            "tags-doubtful",
            "the rule would take the profile away, but two reads of the tags disagree or show none",
        ),
        (
            Decision::Wait(Wait::State(InstanceState::Stopping)),
            false,
            "wait",
            "instance-state",
            "the instance is stopping; the event of its next state brings it back",
        ),
        (
            Decision::Wait(Wait::ProfileUnknown(named("db"))),
            false,
            "wait",
            "profile-unknown",
            "IAM knows no instance profile db; it may have been made seconds ago",
        ),
        (
            Decision::Wait(Wait::InstanceUnseen),
            false,
            "wait",
            "instance-unseen",
            "EC2 does not know the instance; it may have been launched seconds ago",
        ),
        (
            Decision::Keep(db.clone()),
            false,
            "keep",
            "right",
            "arn:aws:iam::123456789012:instance-profile/db is attached, as required",
        ),
        (Decision::KeepBare, false, "keep", "right", "nothing is attached, as required"),
        (
            Decision::LookUp(named("db")),
            false,
            "look-up",
            "profile-needed",
            "the instance requires db, which IAM must show first",
        ),
        (
            Decision::Confirm,
            false,
            "confirm",
            "tags-needed",
            "no profile is required, if a second read of the tags agrees",
        ),
        (
            Decision::Remove(db.clone()),
            true,
            "remove",
            "none-required",
            "found arn:aws:iam::123456789012:instance-profile/db attached; none is required",
        ),
        (
            Decision::Associate(web.clone()),
            true,
            "associate",
            "bare",
            "found nothing attached; arn:aws:iam::123456789012:instance-profile/web is required",
        ),
        (
            replace(&db, other),
            true,
            "replace",
            "other-profile",
            "found arn:aws:iam::123456789012:instance-profile/db attached; arn:aws:iam::123456789012:instance-profile/web is required",
        ),
        (
            replace(&attached("web", Some("AIPA0")), again),
            true,
            "replace",
            "profile-recreated",
            "arn:aws:iam::123456789012:instance-profile/web was deleted and made again: found AIPA0 attached, AIPA1 is the profile now",
        ),
        (
            swap(&db, other),
            true,
            "swap",
            "other-profile",
            "found arn:aws:iam::123456789012:instance-profile/db attached; arn:aws:iam::123456789012:instance-profile/web is required; EC2 replaces nothing on a stopped instance, so it is detached first",
        ),
        (
            swap(&old, again),
            true,
            "swap",
            "profile-recreated",
            "arn:aws:iam::123456789012:instance-profile/web was deleted and made again: found another id attached, AIPA1 is the profile now; EC2 replaces nothing on a stopped instance, so it is detached first",
        ),
    ] {
        assert_eq!(
            (decision.writes(), decision.word(), decision.reason_code()),
            (writes, word, code)
        );
        assert_eq!(decision.to_string(), sentence);
    }
}

#[test]
fn what_names_no_profile_is_said_with_what_would() {
    let why = Illegal { found: "a b".into(), expected: "a name" };
    let account = AccountId::parse("111122223333").unwrap();
    for (invalid, sentence) in [
        (
            InvalidProfile::Illegal { source: "the tag App".into(), why },
            "the tag App names no profile: \"a b\" is not a name",
        ),
        (
            InvalidProfile::OtherAccount { arn: arn("web"), account },
            "arn:aws:iam::123456789012:instance-profile/web is of another account; the instance is in 111122223333",
        ),
        (
            InvalidProfile::OtherPartition { arn: arn("web"), partition: "aws-cn" },
            "arn:aws:iam::123456789012:instance-profile/web is of another partition; the instance is in aws-cn",
        ),
        (
            InvalidProfile::NotThatProfile { wanted: named("db"), found: arn("web") },
            "db is required, but the profile of that name is arn:aws:iam::123456789012:instance-profile/web",
        ),
    ] {
        assert_eq!(invalid.to_string(), sentence);
    }
}

#[test]
fn why_a_rule_is_passed_over_is_said() {
    let differs = |which, found: Option<&str>| {
        let found = found.map(str::to_owned);
        Skipped::Mismatch(Mismatch::TraitDiffers { which, found, wanted: "\"x\"".into() })
    };
    let tag = Mismatch::TagDiffers { key: "App".into(), found: "y".into(), wanted: "\"x\"".into() };
    for (why, sentence) in [
        (absent(), "the instance has no tag App"),
        (Skipped::Mismatch(tag), "the tag App is \"y\", not \"x\""),
        (
            Skipped::TemplateTagAbsent { key: "App".into() },
            "the profile is made of the tag App, which the instance lacks",
        ),
        (differs(Trait::Account, Some("y")), "the account is \"y\", not \"x\""),
        (differs(Trait::Region, Some("y")), "the region is \"y\", not \"x\""),
        (differs(Trait::Vpc, None), "the vpc is not known, and \"x\" is asked for"),
        (differs(Trait::Subnet, Some("y")), "the subnet is \"y\", not \"x\""),
        (
            differs(Trait::InstanceType, None),
            "the instance-type is not known, and \"x\" is asked for",
        ),
        (differs(Trait::Platform, Some("y")), "the platform is \"y\", not \"x\""),
    ] {
        assert_eq!(why.to_string(), sentence);
    }
}

#[test]
fn what_a_message_waits_for_is_said() {
    for (waits_for, words) in [
        (WaitsFor::Turn, "its turn"),
        (WaitsFor::Rate, "EC2's request rate"),
        (WaitsFor::Repair, "its instance to be given a profile again"),
        (WaitsFor::Creation, "something that was made seconds ago"),
        (WaitsFor::Calm, "AWS or the instance to calm down"),
        (WaitsFor::Right, "a right to be granted"),
        (WaitsFor::Nothing, "nothing"),
    ] {
        assert_eq!(waits_for.to_string(), words);
    }
}

#[test]
fn a_failed_call_says_which_and_what_it_means() {
    let right = |resource: Option<&str>| {
        let resource = resource.map(str::to_owned);
        ErrorKind::Denied(MissingRight { action: "iam:PassRole".into(), resource })
    };
    for (kind, sentence) in [
        (ErrorKind::Throttled, "DescribeTags was throttled (C)"),
        (ErrorKind::Transient, "DescribeTags did not get through (C)"),
        (ErrorKind::Conflict, "DescribeTags found the world changed (C)"),
        (ErrorKind::InstanceNotFound, "DescribeTags found no such instance (C)"),
        (ErrorKind::ProfileNotFound, "DescribeTags found no such instance profile (C)"),
        (
            right(Some("role/r")),
            "DescribeTags was denied: the caller needs iam:PassRole on role/r (C)",
        ),
        (right(None), "DescribeTags was denied: the caller needs iam:PassRole (C)"),
        (ErrorKind::Rejected, "DescribeTags was rejected (C)"),
    ] {
        let error =
            CloudError::new(Operation::DescribeTags, kind.clone(), Some("C".into()), "beneath");
        assert_eq!(error.to_string(), sentence);
        let without = CloudError::new(Operation::DescribeTags, kind, None, "beneath");
        assert_eq!(format!("{without} (C)"), sentence);
    }
    let actions: Vec<String> = Operation::ALL.iter().map(|call| call.iam_action()).collect();
    assert_eq!(
        actions,
        [
            "ec2:DescribeInstances",
            "ec2:DescribeIamInstanceProfileAssociations",
            "ec2:DescribeTags",
            "iam:GetInstanceProfile",
            "ec2:AssociateIamInstanceProfile",
            "ec2:ReplaceIamInstanceProfileAssociation",
            "ec2:DisassociateIamInstanceProfile",
        ]
    );
}

#[test]
fn complaints_about_a_policy_file_say_where_and_what() {
    let everything = AllowList::parse("*").unwrap();
    let rule = |key: &str| {
        format!(
            "version: 1\nrules:\n  - {{ name: a, match: {{ tags: {{ {key:?}: x }} }}, profile: web }}\n"
        )
    };
    let many = format!(
        "version: 1
rules: [{{ name: a, match: {{ tags: {{ A: [{}] }} }}, profile: web }}]",
        "x, ".repeat(50_001)
    );
    // So many patterns that comparing each with each would take too long.
    let hard = (0..60).map(|number| {
        let pattern = format!("*{}{number}*", "x*".repeat(120));
        format!(
            "  - {{ name: r{number}, match: {{ tags: {{ A: {pattern:?} }} }}, profile: web }}\n"
        )
    });
    let hard = format!("version: 1\nrules:\n{}", hard.collect::<String>());
    for (yaml, words) in [
        (
            "version: 1\nversion: 1\nrules: []".to_owned(),
            "2:1: error: the key version stands in this map already",
        ),
        (
            "version: 1\nrules: []\n---\nx: 1\n".to_owned(),
            "error: a second document begins here; a policy file holds one",
        ),
        (rule(""), "error: \"\" is no tag key: one has 1 to 128 characters"),
        (rule(&"k".repeat(129)), "is no tag key: one has 1 to 128 characters"),
        (many, "error: the file has too many keys and values up to here"),
        (hard, "warning: from the rule \"r"),
        (
            " ".repeat(MAX_BYTES + 1),
            "error: the file has 1000001 bytes; a policy has at most 1000000",
        ),
        (
            "version: 1\nrules: []".to_owned(),
            "1:10: warning: there are no rules, so no instance is managed",
        ),
    ] {
        let complaints = check(&yaml, &everything).complaints;
        let said = complaints.iter().any(|complaint| complaint.to_string().contains(words));
        assert!(
            said,
            "{words}: {:?}",
            complaints.iter().map(ToString::to_string).collect::<Vec<_>>()
        );
    }
}
