//! What people and their filters read: every word, reason code and sentence, as it is written.

use std::time::Duration;

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::backoff::WaitsFor;
use auto_instance_profile::bus::{self, Kind};
use auto_instance_profile::census::Standing;
use auto_instance_profile::cloud::{CloudError, ErrorKind, MissingRight, Operation};
use auto_instance_profile::decide::{Decision, Different, Leave, Patience, Wait};
use auto_instance_profile::event::Ignored;
use auto_instance_profile::failure::{Disposition, Failure, chain};
use auto_instance_profile::metrics;
use auto_instance_profile::model::{
    AccountId, Association, AssociationId, AssociationState, Illegal, InstanceId, InstanceRef,
    InstanceState, Profile, ProfileArn, ProfileId, ProfileName, ProfileRef, QueueArn, Region, Tags,
};
use auto_instance_profile::policy::file::{MAX_BYTES, check};
use auto_instance_profile::policy::rule::{Mismatch, Skipped, Trait};
use auto_instance_profile::policy::{InvalidProfile, Unusable};
use auto_instance_profile::queue::QueueError;
use auto_instance_profile::report::{Cause, Failures, FoundBy, InstanceReport, Outcome, STUCK};

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
        (
            Skipped::Mismatch(Mismatch::NoSuchTag { key: "k/*".into(), wanted: "\"x\"".into() }),
            "no tag whose key is like k/* has the value \"x\"",
        ),
        (
            Skipped::Mismatch(Mismatch::AttachedDiffers {
                found: Some("app/web".into()),
                wanted: "\"x\" or none".into(),
            }),
            "\"app/web\" is attached, not \"x\" or none",
        ),
        (
            Skipped::Mismatch(Mismatch::AttachedDiffers { found: None, wanted: "\"x\"".into() }),
            "nothing is attached, and \"x\" is asked for",
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
        (WaitsFor::Truce, "a truce with another hand to be over"),
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

#[test]
fn a_contest_names_the_other_hand_or_says_how_to_learn_it() {
    let somebody = "arn:aws:sts::123456789012:assumed-role/deploy/pipeline";
    for (by, hand) in [
        (None, "another hand (turn Drift on to learn whose)"),
        (Some(somebody.to_owned()), &*format!("{somebody} (the last known)")),
    ] {
        let failure = Failure::Contested { by };
        assert_eq!(
            failure.to_string(),
            format!(
                "it was made right 3 times within 60 minutes, and each time changed again by {hand}; it is left alone \
                 for 60 minutes"
            )
        );
        assert_eq!(failure.error_type(), "Contested");
        for patience in [Patience::Fresh, Patience::Exhausted] {
            assert_eq!(failure.waits_for(patience), WaitsFor::Truce);
            assert_eq!(failure.disposition(patience), Disposition::ComeAgain);
        }
    }
}

#[test]
fn every_word_for_filters_and_alarms_is_as_documented() {
    for (outcome, word, is_change) in [
        (Outcome::Left, "left", false),
        (Outcome::Waiting, "waiting", false),
        (Outcome::Kept, "kept", false),
        (Outcome::Associated, "associated", true),
        (Outcome::Removed, "removed", true),
        (Outcome::Replaced, "replaced", true),
        (Outcome::Swapped, "swapped", true),
        (Outcome::Converged, "converged", false),
        (Outcome::Planned, "planned", false),
        (Outcome::NotRepaired, "not-repaired", false),
        (Outcome::Contested, "contested", false),
    ] {
        assert_eq!((outcome.word(), outcome.is_change()), (word, is_change));
    }
    let standings = [
        Standing::Right,
        Standing::Change,
        Standing::Blocked,
        Standing::Left,
        Standing::Waiting,
        Standing::Failed,
    ];
    let words = ["right", "change", "blocked", "left", "waiting", "failed"];
    assert_eq!(standings.map(Standing::word), words);
    let finders = [FoundBy::Event, FoundBy::Drift, FoundBy::Person, FoundBy::Sweep];
    assert_eq!(finders.map(FoundBy::word), ["event", "drift", "person", "sweep"]);
    assert_eq!(
        Kind::ALL.map(Kind::detail_type),
        [
            "Instance Profile Changed",
            "Instance Profile Blocked",
            "Instance Profile Contested",
            "Sweep Completed"
        ]
    );
    let names = [bus::SOURCE, metrics::NAMESPACE, metrics::FUNCTION, metrics::REASON];
    assert_eq!(names, ["auto-instance-profile", "AutoInstanceProfile", "FunctionName", "Reason"]);
    assert_eq!((metrics::ERROR_TYPE, STUCK), ("ErrorType", "association-stuck"));
}

#[test]
fn why_a_call_is_ignored_is_said() {
    let call = || "AssociateIamInstanceProfile".to_owned();
    for (why, sentence) in [
        (
            Ignored::OtherCall { call: "StopInstances".into() },
            "the call \"StopInstances\" neither launches nor changes an association",
        ),
        (
            Ignored::FailedCall { call: call(), code: "Client.UnauthorizedOperation".into() },
            "the call \"AssociateIamInstanceProfile\" failed (\"Client.UnauthorizedOperation\")",
        ),
        (
            Ignored::OwnCall { call: call() },
            "the call \"AssociateIamInstanceProfile\" was the function's own",
        ),
    ] {
        assert_eq!(why.to_string(), sentence);
    }
}

#[test]
fn a_call_to_a_queue_or_a_bus_that_failed_says_which() {
    let error = QueueError::new("PutEvents", Some("ThrottlingException".into()), "Too many.");
    assert_eq!(chain(&error), "PutEvents failed (ThrottlingException): Too many.");
    let error = QueueError::new("SendMessage", None, "no answer");
    assert_eq!(chain(&error), "SendMessage failed: no answer");
}

fn failed_call(kind: ErrorKind) -> CloudError {
    CloudError::new(Operation::AssociateIamInstanceProfile, kind, Some("C".into()), "beneath")
}

fn report(decision: Option<Decision>, result: Result<Outcome, Failure>) -> InstanceReport {
    let region = Region::parse("us-east-1").unwrap();
    InstanceReport {
        cause: Cause::default(),
        is_stuck: false,
        instance: InstanceRef { account: None, region, id: InstanceId::parse("i-1").unwrap() },
        facts: None,
        rule: None,
        tags: Tags::new(),
        decision,
        result,
        patience: Patience::Fresh,
        duration: Duration::ZERO,
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "the table is long")]
fn every_failure_has_its_type_its_words_and_what_its_message_waits_for() {
    let call = |kind| Failure::Cloud(failed_call(kind));
    let denied = || {
        let action = "iam:PassRole".to_owned();
        ErrorKind::Denied(MissingRight { action, resource: None })
    };
    let undone = |cause| Failure::SwapUndone { restored: "db".into(), cause: Box::new(cause) };
    let bare = |cause: Option<Failure>, undoing: Option<CloudError>| {
        let cause = cause.map(Box::new);
        Failure::LeftBare { detached: "db".into(), cause, undoing }
    };
    let rejected = "AssociateIamInstanceProfile was rejected (C): beneath";
    for (failure, error_type, fresh, exhausted, sentence) in [
        (
            call(ErrorKind::Throttled),
            "Throttled",
            WaitsFor::Rate,
            WaitsFor::Rate,
            "a call to AWS failed: AssociateIamInstanceProfile was throttled (C): beneath".to_owned(),
        ),
        (
            call(ErrorKind::Transient),
            "Transient",
            WaitsFor::Calm,
            WaitsFor::Calm,
            "a call to AWS failed: AssociateIamInstanceProfile did not get through (C): beneath".to_owned(),
        ),
        (
            call(ErrorKind::Conflict),
            "Conflict",
            WaitsFor::Calm,
            WaitsFor::Calm,
            "a call to AWS failed: AssociateIamInstanceProfile found the world changed (C): beneath".to_owned(),
        ),
        (
            call(ErrorKind::InstanceNotFound),
            "InstanceNotFound",
            WaitsFor::Creation,
            WaitsFor::Creation,
            "a call to AWS failed: AssociateIamInstanceProfile found no such instance (C): beneath".to_owned(),
        ),
        (
            call(ErrorKind::ProfileNotFound),
            "ProfileNotFound",
            WaitsFor::Creation,
            WaitsFor::Creation,
            "a call to AWS failed: AssociateIamInstanceProfile found no such instance profile (C): beneath".to_owned(),
        ),
        (
            call(denied()),
            "Denied",
            WaitsFor::Right,
            WaitsFor::Right,
            "a call to AWS failed: AssociateIamInstanceProfile was denied: the caller needs iam:PassRole (C): beneath".to_owned(),
        ),
        (
            call(ErrorKind::Rejected),
            "Rejected",
            WaitsFor::Nothing,
            WaitsFor::Nothing,
            format!("a call to AWS failed: {rejected}"),
        ),
        (
            Failure::InstanceUnseen,
            "InstanceNotFound",
            WaitsFor::Creation,
            WaitsFor::Creation,
            "EC2 does not know the instance yet".to_owned(),
        ),
        (
            Failure::ProfileUnknown(named("db")),
            "ProfileNotFound",
            WaitsFor::Creation,
            WaitsFor::Nothing,
            "IAM knows no instance profile db; create it, or correct the tag (one made seconds ago is found later)".to_owned(),
        ),
        (
            Failure::ProfileUnknownToEc2(failed_call(ErrorKind::ProfileNotFound)),
            "ProfileNotFound",
            WaitsFor::Creation,
            WaitsFor::Nothing,
            "IAM knows the instance profile and EC2 does not; one made seconds ago is found later: AssociateIamInstanceProfile found no such instance profile (C): beneath".to_owned(),
        ),
        (
            Failure::KeepsMoving(failed_call(ErrorKind::Conflict)),
            "Conflict",
            WaitsFor::Calm,
            WaitsFor::Calm,
            "the instance changed each time it was about to be changed: AssociateIamInstanceProfile found the world changed (C): beneath".to_owned(),
        ),
        (
            undone(call(ErrorKind::Rejected)),
            "SwapUndone",
            WaitsFor::Nothing,
            WaitsFor::Nothing,
            format!("the swap was undone, db is attached again: a call to AWS failed: {rejected}"),
        ),
        (
            undone(Failure::ProfileUnknown(named("x"))),
            "SwapUndone",
            WaitsFor::Creation,
            WaitsFor::Nothing,
            "the swap was undone, db is attached again: IAM knows no instance profile x; create it, or correct the tag (one made seconds ago is found later)".to_owned(),
        ),
        (
            bare(Some(Failure::OutOfTime), Some(failed_call(ErrorKind::Rejected))),
            "LeftBare",
            WaitsFor::Repair,
            WaitsFor::Repair,
            format!("the instance is bare: db was detached and could not be put back (the invocation's time ran out before the instance was done): {rejected}"),
        ),
        (
            bare(None, None),
            "LeftBare",
            WaitsFor::Repair,
            WaitsFor::Repair,
            "the instance is bare: db was detached and could not be put back".to_owned(),
        ),
        (
            Failure::OutOfTime,
            "OutOfTime",
            WaitsFor::Turn,
            WaitsFor::Turn,
            "the invocation's time ran out before the instance was done".to_owned(),
        ),
    ] {
        assert_eq!(failure.error_type(), error_type);
        for (patience, waits_for) in [(Patience::Fresh, fresh), (Patience::Exhausted, exhausted)] {
            assert_eq!(failure.waits_for(patience), waits_for, "{sentence}");
            let hopeless = matches!(waits_for, WaitsFor::Right | WaitsFor::Nothing);
            let gives_up = failure.disposition(patience) == Disposition::GiveUp;
            assert_eq!(gives_up, hopeless, "{sentence}");
        }
        assert_eq!(chain(&failure), sentence);
    }
}

#[test]
fn a_row_names_the_profile_that_is_required_where_one_is_known() {
    let (web, db) = (profile("web"), attached("db", None));
    let web_arn = Some("arn:aws:iam::123456789012:instance-profile/web");
    let db_arn = Some("arn:aws:iam::123456789012:instance-profile/db");
    let why = Different::OtherProfile;
    for (decision, required) in [
        (Decision::Associate(web.clone()), web_arn),
        (Decision::Replace { from: db.clone(), to: web.clone(), why }, web_arn),
        (Decision::Swap { from: db.clone(), to: web, why }, web_arn),
        (Decision::Keep(db.clone()), db_arn),
        (Decision::Leave(Leave::NotAllowed(named("db"))), Some("db")),
        (Decision::Leave(Leave::Unusable { profile: arn("db"), why: Unusable::NoRole }), db_arn),
        (Decision::LookUp(named("db")), Some("db")),
        (Decision::Wait(Wait::ProfileUnknown(named("db"))), Some("db")),
        (Decision::Leave(Leave::CorrectsOnly), None),
        (Decision::Wait(Wait::InstanceUnseen), None),
        (Decision::KeepBare, None),
        (Decision::Confirm, None),
        (Decision::Remove(db), None),
    ] {
        let report = report(Some(decision), Ok(Outcome::Left));
        assert_eq!(report.required().as_deref(), required, "{report:?}");
        let row = serde_json::to_value(report.entry()).unwrap();
        assert_eq!(row["required"].as_str(), required);
        assert!(row.get("error").is_none());
    }
}

#[test]
fn failures_are_listed_and_successes_left_out() {
    let good = report(None, Ok(Outcome::Kept));
    let bad = report(None, Err(Failure::InstanceUnseen));
    let late = report(None, Err(Failure::OutOfTime));
    assert_eq!(
        Failures(vec![&bad, &good, &late]).to_string(),
        "instance i-1: EC2 does not know the instance yet; instance i-1: the invocation's time ran out before the instance was done"
    );
}

#[test]
fn a_failed_call_to_a_queue_says_which() {
    for (code, sentence) in [
        (None, "SendMessage failed: beneath"),
        (Some("AccessDenied".to_owned()), "SendMessage failed (AccessDenied): beneath"),
    ] {
        assert_eq!(chain(&QueueError::new("SendMessage", code, "beneath")), sentence);
    }
}

#[test]
fn ec2s_words_are_read_and_written_alike() {
    for word in
        ["pending", "running", "stopping", "stopped", "shutting-down", "terminated", "other"]
    {
        assert_eq!(InstanceState::from_ec2(word).as_str(), word);
    }
    for (word, holds) in [
        ("associating", true),
        ("associated", true),
        ("disassociating", false),
        ("disassociated", false),
        ("other", true),
    ] {
        let state = AssociationState::from_ec2(word);
        assert_eq!((state.as_str(), state.holds()), (word, holds));
    }
}

#[test]
fn a_queues_arn_is_taken_apart_or_refused() {
    let arn = |name: &str| format!("arn:aws:sqs:us-east-1:123456789012:{name}");
    let (longest, longer) = (arn(&"q".repeat(80)), arn(&"q".repeat(81)));
    let queue = QueueArn::parse(&arn("my_q-1.fifo")).unwrap();
    assert_eq!((queue.region.as_str(), queue.name.as_str()), ("us-east-1", "my_q-1.fifo"));
    assert_eq!(queue.account.as_str(), "123456789012");
    assert!(QueueArn::parse(&longest).is_ok());
    for text in [
        "",
        "my-queue",
        "arn:aws:sns:us-east-1:123456789012:q",
        "arn:aws:sqs:us-east-1:123456789012",
        "arn:aws:sqs:us-east-1:12:q",
        "arn:aws:sqs:Mars!:123456789012:q",
        "arn:aws:sqs:us-east-1:123456789012:q:more",
        arn("").as_str(),
        arn("a/b").as_str(),
        longer.as_str(),
    ] {
        assert!(QueueArn::parse(text).is_err(), "{text}");
    }
}

#[test]
fn only_an_instance_profiles_arn_is_one() {
    for arn in [
        "urn:aws:iam::123456789012:instance-profile/web",
        "arn:gcp:iam::123456789012:instance-profile/web",
        "arn:aws*:iam::123456789012:instance-profile/web",
        "arn:aws:ec2::123456789012:instance-profile/web",
        "arn:aws:iam:us-east-1:123456789012:instance-profile/web",
        "arn:aws:iam::12:instance-profile/web",
        "arn:aws:iam::123456789012:role/web",
        "arn:aws:iam::123456789012:instance-profile/",
        "arn:aws:iam::123456789012:instance-profile/a b/web",
        "arn:aws:iam",
    ] {
        assert!(ProfileArn::parse(arn).is_err(), "{arn}");
    }
    assert!(ProfileArn::parse("arn:aws-us-gov:iam::123456789012:instance-profile/web").is_ok());
}

#[test]
fn a_profiles_path_has_iams_length() {
    let with_path = |length: usize| {
        let path = "p".repeat(length);
        ProfileArn::parse(&format!("arn:aws:iam::123456789012:instance-profile/{path}/web"))
    };
    assert!(with_path(510).is_ok());
    assert!(with_path(511).is_err());
}
