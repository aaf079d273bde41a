//! `explain`: how a policy comes to its decision about one instance, made up or real.

use std::io::{self, Write};
use std::path::Path;

use auto_instance_profile::config::Mode;
use auto_instance_profile::decide::{Decision, Leave, decide};
use auto_instance_profile::failure::{Failure, chain};
use auto_instance_profile::model::{
    AccountId, Association, AssociationId, AssociationState, Illegal, Instance, InstanceFacts,
    InstanceId, InstanceState, Keeper, Platform, Profile, ProfileArn, ProfileId, ProfileName,
    ProfileRef, Region, Role, TagSource,
};
use auto_instance_profile::policy::rule::{
    Manner, Rule, Subject, Target, WhenAbsent, WhenDifferent, WhenStopped,
};
use auto_instance_profile::policy::{Demand, Policy, Requirement, Tagging};
use auto_instance_profile::report::InstanceReport;

use crate::args::{Allowed, ExplainArgs, MadeUp};
use crate::fleet::{Place, warn};
use crate::plan::{Group, group};
use crate::policy::{Loaded, load};
use crate::show::{BAD, FAINT, GOOD, HEADING, UNSURE, counted, printable, short, shortened};
use crate::{End, Trouble, wait_for};

/// Stands for the account where none is given; no account has this id.
const NO_ACCOUNT: &str = "000000000000";
/// The Region of an instance made up, where none is given.
const SOME_REGION: &str = "us-east-1";

pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<End, Trouble> {
    let everything = Allowed::everything().map_err(Trouble::Usage)?;
    let allowed = args.allowed.as_ref().unwrap_or(&everything);
    let subject = args.subject.as_deref();
    match subject.map(InstanceId::parse) {
        Some(Ok(id)) => {
            if let Some(option) = args.made_up.first_given() {
                return Err(Trouble::Usage(format!(
                    "{option} makes up an instance, and {id} is looked at; give one or the other"
                )));
            }
            let loaded = loaded(args, args.policy.as_deref(), allowed)?;
            wait_for(real(args, &id, &loaded, allowed, out))
        }
        Some(Err(illegal))
            if subject.is_some_and(|text| text.starts_with("i-") && !Path::new(text).exists()) =>
        {
            Err(Trouble::Usage(illegal.to_string()))
        }
        Some(Err(_))
            if subject.is_some_and(|text| text.contains('=') && !Path::new(text).exists()) =>
        {
            let why = "tags are one argument behind --tags, such as --tags A=b,C=d or --tags \"A=b, C=d\"";
            Err(Trouble::Usage(why.to_owned()))
        }
        Some(Err(_)) if args.tag_key.is_some() => {
            Err(Trouble::Usage("a policy file and --tag-key exclude each other".to_owned()))
        }
        Some(Err(_)) | None => {
            let file = subject.map(Path::new).or(args.policy.as_deref());
            let loaded = loaded(args, file, allowed)?;
            offline(args, &loaded, allowed, out)
        }
    }
}

fn loaded(args: &ExplainArgs, file: Option<&Path>, allowed: &Allowed) -> Result<Loaded, Trouble> {
    let loaded = load(file, args.tag_key.as_deref(), &allowed.list)?;
    let policy = loaded.policy.with_when_stopped_default(args.when_stopped);
    Ok(Loaded { policy, ..loaded })
}

/// Whether EC2 does not know the instance.
fn is_unknown(report: &InstanceReport) -> bool {
    matches!(report.decision, Some(Decision::Leave(Leave::NeverSeen)))
}

/// Everything that is explained.
struct Story<'a> {
    policy: &'a Policy,
    allowed: &'a str,
    /// The account, where it is known.
    account: Option<&'a AccountId>,
    region: &'a Region,
    facts: &'a InstanceFacts,
}

async fn real(
    args: &ExplainArgs,
    id: &InstanceId,
    loaded: &Loaded,
    allowed: &Allowed,
    out: &mut impl Write,
) -> Result<End, Trouble> {
    let place = Place::find(args.region.as_ref(), None).await?;
    let mut reports = place.run(std::slice::from_ref(id), &loaded.policy, Mode::DryRun).await;
    let Some(report) = reports.pop() else {
        return Err(Trouble::Usage(format!("nothing is known about {id}")));
    };
    if let Err(Failure::Cloud(error)) = &report.result {
        place.check_credentials(error).await?;
    }
    write_policy(loaded, args, out)?;
    if let Some(facts) = &report.facts {
        let (account, region) = (report.account(), &place.region);
        let story =
            Story { policy: &loaded.policy, allowed: &allowed.text, account, region, facts };
        story.write_instance(out)?;
        story.write_rules(out)?;
        write_end(&report, out)?;
        story.write_checks(out)?;
    } else {
        writeln!(out, "{HEADING}instance{HEADING:#}     {id}, in {}", place.region)?;
        write_end(&report, out)?;
    }
    heading("not known before it is tried", out)?;
    writeln!(out, "  - whether your credentials, or the function's role, may make a change")?;
    writeln!(out, "  - what changes between this look and that")?;
    let is_unknown = is_unknown(&report);
    if is_unknown {
        // Perhaps it is somewhere else.
        writeln!(
            out,
            "  - whether another account, or another Region than {}, has it",
            place.region
        )?;
    }
    Ok(if is_unknown || group(&report) == Group::Failed { End::Wrong } else { End::Done })
}

fn write_end(report: &InstanceReport, out: &mut impl Write) -> io::Result<()> {
    match (&report.result, &report.decision) {
        // A profile that is not there is for a person to put right, and was found out without a failure.
        (Ok(_) | Err(Failure::ProfileUnknown(_)), Some(decision)) => write_decision(decision, out),
        (Err(failure), _) => {
            heading("decision", out)?;
            writeln!(out, "  {BAD}failed{BAD:#}: {}", printable(&chain(failure)))
        }
        (Ok(_), None) => Ok(()),
    }
}

fn offline(
    args: &ExplainArgs,
    loaded: &Loaded,
    allowed: &Allowed,
    out: &mut impl Write,
) -> Result<End, Trouble> {
    let usage = |why: &dyn std::fmt::Display| Trouble::Usage(why.to_string());
    let region = match &args.region {
        Some(region) => region.clone(),
        None => Region::parse(SOME_REGION).map_err(|why| usage(&why))?,
    };
    let account = args.made_up.account.as_ref();
    let facts = made_up(&args.made_up, &region)?;
    let story = Story {
        policy: &loaded.policy,
        allowed: &allowed.text,
        account,
        region: &region,
        facts: &facts,
    };
    let decision = story.decide()?;
    write_policy(loaded, args, out)?;
    story.write_instance(out)?;
    story.write_rules(out)?;
    write_decision(&decision, out)?;
    story.write_checks(out)?;
    story.write_assumptions(&decision, args.region.is_none(), out)?;
    Ok(End::Done)
}

fn made_up(given: &MadeUp, region: &Region) -> Result<InstanceFacts, Trouble> {
    let usage = |why: Illegal| Trouble::Usage(why.to_string());
    let id = InstanceId::parse("i-0").map_err(usage)?;
    let association = match &given.current {
        None => None,
        Some(current) => Some(Association {
            id: AssociationId::parse("made-up").map_err(usage)?,
            instance: id.clone(),
            profile_arn: arn_of(current, given.account.as_ref(), region)
                .map_err(|why| Trouble::Usage(format!("--current: {why}")))?
                .to_string(),
            profile_id: None,
            state: AssociationState::Associated,
            since: None,
        }),
    };
    let instance = Instance {
        id,
        account: given.account.clone(),
        state: given.state.clone().unwrap_or(InstanceState::Running),
        tags: given.all_tags().map_err(Trouble::Usage)?,
        keeper: given
            .managed_by
            .clone()
            .map_or(Keeper::Owner, |service| Keeper::Service(Some(service))),
        vpc: given.vpc.clone(),
        subnet: given.subnet.clone(),
        instance_type: given.instance_type.clone(),
        platform: given.platform.unwrap_or(Platform::Linux),
        started: None,
    };
    Ok(InstanceFacts { instance, association, tags_by: TagSource::Instances })
}

/// The ARN of a profile by its name: at the root path, in the instance's account.
fn arn_of(
    profile: &str,
    account: Option<&AccountId>,
    region: &Region,
) -> Result<ProfileArn, Illegal> {
    if profile.starts_with("arn:") {
        return ProfileArn::parse(profile);
    }
    let name = ProfileName::parse(profile)?;
    let account = account.map_or(NO_ACCOUNT, AccountId::as_str);
    ProfileArn::parse(&format!("arn:{}:iam::{account}:instance-profile/{name}", region.partition()))
}

impl Story<'_> {
    fn subject(&self) -> Subject<'_> {
        Subject {
            account: self.account,
            region: self.region,
            instance: &self.facts.instance,
            attached: self.facts.association.as_ref().map(|row| row.profile_arn.as_str()),
        }
    }

    /// Decides as the engine does, with what cannot be asked offline taken for granted.
    fn decide(&self) -> Result<Decision, Trouble> {
        let subject = self.subject();
        let mut requirement = self.policy.requirement(&subject);
        let mut decision = decide(&requirement, self.facts);
        if let Decision::LookUp(wanted) = &decision {
            let wanted = wanted.clone();
            let usage = |why: Illegal| Trouble::Usage(why.to_string());
            let arn = arn_of(&wanted.to_string(), self.account, self.region).map_err(usage)?;
            let id = ProfileId::parse("made-up").map_err(usage)?;
            let role = Some(Role { name: "made-up".to_owned(), trust_policy: None });
            requirement = self.policy.settle(requirement, &wanted, Some(Profile { arn, id, role }));
            decision = decide(&requirement, self.facts);
        }
        if decision == Decision::Confirm {
            requirement = self.policy.confirm(requirement, &subject, &self.facts.instance.tags);
            decision = decide(&requirement, self.facts);
        }
        Ok(decision)
    }

    fn write_instance(&self, out: &mut impl Write) -> io::Result<()> {
        let instance = &self.facts.instance;
        let mut traits = vec![instance.state.as_str(), instance.platform.as_str()];
        traits.extend(instance.instance_type.as_deref());
        traits.extend(instance.vpc.as_deref());
        traits.extend(instance.subnet.as_deref());
        traits.push(self.region.as_str());
        traits.extend(self.account.map(AccountId::as_str));
        let traits: Vec<_> = traits.into_iter().map(printable).collect();
        writeln!(out, "{HEADING}instance{HEADING:#}     {}", traits.join(", "))?;
        let tags: Vec<_> = instance
            .tags
            .iter()
            .map(|(key, value)| format!("{}={value:?}", printable(key)))
            .collect();
        let tags = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
        writeln!(out, "{HEADING}tags{HEADING:#}         {tags}")?;
        let attached = self.facts.association.as_ref();
        let attached = attached.map_or("nothing".to_owned(), |row| short(&row.profile_arn));
        writeln!(out, "{HEADING}attached{HEADING:#}     {attached}")
    }

    fn write_rules(&self, out: &mut impl Write) -> io::Result<()> {
        let subject = self.subject();
        let trace = self.policy.trace(&subject);
        heading("rules", out)?;
        if let Some(entry) = trace.ignored {
            return writeln!(
                out,
                "  {UNSURE}entry {entry} of ignore matches: no rule is asked{UNSURE:#}"
            );
        }
        let rules = self.policy.rules();
        let digits = rules.len().to_string().len();
        let shown = trace.skipped.iter().map(|(rule, _)| *rule);
        let shown = shown.chain(trace.matched.iter().map(|(rule, _)| *rule));
        let longest = shown.map(|rule| printable(&rule.name).chars().count()).max();
        let width = longest.unwrap_or(0).min(32);
        for (number, (rule, why)) in (1..).zip(&trace.skipped) {
            let (name, why) = (printable(&rule.name), printable(&why.to_string()));
            writeln!(out, "  {number:digits$}  {name:width$}  {FAINT}skipped: {why}{FAINT:#}")?;
        }
        let Some((rule, named)) = &trace.matched else {
            return writeln!(out, "  no rule decides");
        };
        let number = trace.skipped.len() + 1;
        let (name, target) = (printable(&rule.name), target(rule, named.as_deref()));
        writeln!(out, "  {number:digits$}  {name:width$}  {GOOD}decides: {target}{GOOD:#}")?;
        let rest = rules.len() - number;
        if rest > 0 {
            writeln!(out, "  {FAINT}{} after it: not asked{FAINT:#}", counted(rest, "rule"))?;
        }
        Ok(())
    }

    /// What would forbid a change, each on its own: a decision names only the first.
    fn write_checks(&self, out: &mut impl Write) -> io::Result<()> {
        let requirement = self.policy.requirement(&self.subject());
        let wanted = match &requirement.demand {
            Demand::Named(wanted) | Demand::NotAllowed(wanted) | Demand::Unknown(wanted) => {
                Some(wanted)
            }
            Demand::Nothing { .. } => None,
            Demand::Ignored { .. }
            | Demand::Unmanaged { .. }
            | Demand::Invalid(_)
            | Demand::Unusable { .. }
            | Demand::Profile(_) => return Ok(()),
        };
        heading("what would forbid a change", out)?;
        if let Some(wanted) = wanted {
            write_check("allow-list", &self.allow_list(wanted), out)?;
        }
        let mut facts = self.facts.clone();
        facts.instance.keeper = Keeper::Owner;
        let state = &self.facts.instance.state;
        let forbidden = forbidding(&facts).map_or_else(
            || Check::Passes(format!("EC2 takes changes while the instance is {state}")),
            Check::Forbids,
        );
        write_check("state", &forbidden, out)?;
        facts.instance.keeper = self.facts.instance.keeper.clone();
        facts.instance.state = InstanceState::Running;
        let forbidden = forbidding(&facts).map_or_else(
            || Check::Passes("no AWS service manages the instance".to_owned()),
            Check::Forbids,
        );
        write_check("service", &forbidden, out)
    }

    fn allow_list(&self, wanted: &ProfileRef) -> Check {
        let (list, patterns) = (&self.policy.allowed, self.allowed);
        if !list.may_allow(wanted) {
            return Check::Forbids(format!(
                "no pattern of {patterns} allows {}",
                short(&wanted.to_string())
            ));
        }
        match wanted {
            ProfileRef::Arn(arn) => {
                Check::Passes(format!("{patterns} allows {}", arn.path_and_name()))
            }
            ProfileRef::Name(name) if list.allows_as_named(wanted) => {
                Check::Passes(format!("{patterns} allows {name} at the root path"))
            }
            ProfileRef::Name(name) => Check::Depends(format!(
                "{patterns} allows {name} at some path, and not at the root path"
            )),
        }
    }

    fn write_assumptions(
        &self,
        decision: &Decision,
        region_is_assumed: bool,
        out: &mut impl Write,
    ) -> io::Result<()> {
        heading("not known offline", out)?;
        let requirement = self.policy.requirement(&self.subject());
        if let Demand::Named(wanted) = &requirement.demand {
            let path = match wanted {
                ProfileRef::Name(_) => ", at the root path",
                ProfileRef::Arn(_) => "",
            };
            writeln!(
                out,
                "  - whether the profile {} exists and its role lets EC2 in: taken to be so{path}",
                short(&wanted.to_string())
            )?;
        }
        if self.facts.instance.keeper == Keeper::Owner {
            writeln!(
                out,
                "  - whether an AWS service manages the instance (--managed-by): taken not to be so"
            )?;
        }
        if let Decision::Remove(_) = decision {
            writeln!(out, "  - whether a second read of the tags agrees: taken to be so")?;
        }
        writeln!(out, "  - an instance's real tags, state and profile: explain i-… looks at them")?;
        if self.account.is_none() {
            writeln!(out, "  - the account (--account): rules about accounts do not match")?;
        }
        if region_is_assumed {
            writeln!(out, "  - the Region (--region): taken to be {}", self.region)?;
        }
        writeln!(out, "  - whether the function's role may make a change")
    }
}

/// Whether something forbids a change, and why.
enum Check {
    Passes(String),
    Depends(String),
    Forbids(String),
}

fn write_check(name: &str, check: &Check, out: &mut impl Write) -> io::Result<()> {
    let (style, word, why) = match check {
        Check::Passes(why) => (GOOD, "passes", why),
        Check::Depends(why) => (UNSURE, "depends", why),
        Check::Forbids(why) => (BAD, "forbids", why),
    };
    writeln!(out, "  {name:10}  {style}{word:7}{style:#}  {}", printable(why))
}

/// What in an instance itself forbids every change, if anything does: asked by the one requirement that depends on nothing
/// else.
fn forbidding(facts: &InstanceFacts) -> Option<String> {
    let demand = Demand::Nothing { tags: Tagging::Confirmed };
    let requirement = Requirement { rule: None, manner: Manner::default(), demand };
    match decide(&requirement, facts) {
        Decision::KeepBare | Decision::Remove(_) => None,
        forbidding @ (Decision::Leave(_)
        | Decision::Wait(_)
        | Decision::Keep(_)
        | Decision::LookUp(_)
        | Decision::Confirm
        | Decision::Associate(_)
        | Decision::Replace { .. }
        | Decision::PutBack { .. }
        | Decision::Swap { .. }) => Some(forbidding.to_string()),
    }
}

fn write_policy(loaded: &Loaded, args: &ExplainArgs, out: &mut impl Write) -> io::Result<()> {
    warn(loaded);
    let allowed = match &args.allowed {
        Some(allowed) => format!("allowed {}", allowed.text),
        None => "every profile taken to be allowed (--allowed)".to_owned(),
    };
    writeln!(out, "{HEADING}policy{HEADING:#}       {}, {allowed}", printable(&loaded.name))
}

fn write_decision(decision: &Decision, out: &mut impl Write) -> io::Result<()> {
    heading("decision", out)?;
    let row = decision.row().map_or_else(String::new, |row| format!(" (row {row})"));
    let reason = decision.to_string();
    // Without the account that stands for none.
    let is_made_up = reason.contains(&format!("iam::{NO_ACCOUNT}:"));
    let reason = if is_made_up { shortened(&reason) } else { printable(&reason) };
    writeln!(out, "  {HEADING}{}{HEADING:#}{row}: {}", decision.word(), reason)
}

fn heading(text: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n{HEADING}{text}{HEADING:#}")
}

fn target(rule: &Rule, named: Option<&str>) -> String {
    let manner = [
        (rule.manner.when_different == WhenDifferent::Keep, "when-different: keep"),
        (rule.manner.when_absent == WhenAbsent::Leave, "when-absent: leave"),
        (rule.manner.when_stopped == WhenStopped::Swap, "when-stopped: swap"),
    ];
    let manner: Vec<_> =
        manner.into_iter().filter_map(|(is_so, text)| is_so.then_some(text)).collect();
    let manner =
        if manner.is_empty() { String::new() } else { format!(" ({})", manner.join(", ")) };
    match (&rule.target, named) {
        (Target::Profile(template), Some(named)) if template.literal().is_none() => {
            format!("profile {}, made of {template}{manner}", printable(named))
        }
        (Target::Profile(_) | Target::Nothing, Some(named)) => {
            format!("profile {}{manner}", printable(named))
        }
        (Target::Profile(_) | Target::Nothing, None) => format!("profile none{manner}"),
    }
}
