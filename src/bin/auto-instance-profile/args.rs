//! What the command line takes, and what it says about itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::model::{AccountId, Filter, InstanceState, Platform, Region, Tags};
use auto_instance_profile::policy::rule::WhenStopped;
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; with plan and report: nothing to do
  1  an error: in the policy, on the command line, from AWS
  2  plan: there is something to do; report: something is not right";

const EXAMPLES: &str = "\
Examples:
  auto-instance-profile check policy.yaml
  auto-instance-profile explain policy.yaml --tags Tier=web,Environment=prod
  auto-instance-profile plan policy.yaml --allowed 'web-*,app/*'
  auto-instance-profile apply policy.yaml --allowed 'web-*,app/*'
  auto-instance-profile report policy.yaml --allowed 'web-*,app/*' --html report.html
  auto-instance-profile replay --dead-letter-queue \"$DLQ\" --queue \"$QUEUE\"";

/// Gives EC2 instances the IAM instance profile that a policy requires by their tags.
///
/// This tool shows and does by hand what the Lambda function does on events: same rules, same checks, same code.
#[derive(Debug, Parser)]
#[command(name = "auto-instance-profile", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate a policy file; reads that file and nothing else
    #[command(after_help = "\
Examples:
  auto-instance-profile check policy.yaml --allowed 'web-*,app/*'
  auto-instance-profile check --print-default --tag-key Role > policy.yaml
  auto-instance-profile check --print-schema > policy.schema.json")]
    Check(CheckArgs),
    /// Say which rule decides about an instance, why the earlier ones do not, and what would be done
    ///
    /// About an instance made up on the command line, nothing is read but the policy file. About a real one (i-…), EC2 and
    /// IAM are asked, by read-only calls alone.
    #[command(after_help = "\
Examples:
  auto-instance-profile explain policy.yaml --tags Tier=web,Environment=prod
  auto-instance-profile explain policy.yaml --tags App=shop --state stopped --current web-old
  auto-instance-profile explain i-0abcdef1234567890 --policy policy.yaml --allowed 'web-*'")]
    Explain(Box<ExplainArgs>),
    /// Read the fleet and show what would be changed; changes nothing, by read-only calls alone
    #[command(after_help = "\
Examples:
  auto-instance-profile plan policy.yaml --allowed 'web-*,app/*' --region eu-west-1
  auto-instance-profile plan policy.yaml --allowed '*' --filter Name=tag:Environment,Values=dev,test
  auto-instance-profile plan --tag-key InstanceProfile --allowed '*' --json

Exit codes: 0 nothing to do, 2 something to do, 1 an error, or an instance that could not be read.")]
    Plan(PlanArgs),
    /// Show the plan, ask, and carry it out
    ///
    /// Each instance is looked at again right before it is changed, and nothing is done to it that the policy does not
    /// require then. Once it is interrupted (Ctrl-C), its terminal is gone or its output cannot be written, it begins no further
    /// change and ends those under way. It says what is not done, or not as the plan said, and then answers with 1.
    ///
    /// A stopped instance with another profile stays as it is until it runs: then the function replaces the profile. Where its
    /// rule says `when-stopped: swap`, --queue has it done now.
    #[command(after_help = "\
Examples:
  auto-instance-profile apply policy.yaml --allowed 'web-*,app/*'
  auto-instance-profile apply policy.yaml --allowed '*' --filter Name=tag:Environment,Values=dev --yes
  auto-instance-profile apply policy.yaml --allowed 'web-*' --when-stopped swap --queue \"$QUEUE\"

Exit codes: 0 all done, 1 something is not done, or not as planned, or the answer was no.")]
    Apply(ApplyArgs),
    /// Say where the whole fleet stands: what is wrong, blocked and why, and who launches instances bare; changes nothing
    ///
    /// The fleet is read in bulk, by the function's own sweep, and counted as that counts.
    #[command(after_help = "\
Examples:
  auto-instance-profile report policy.yaml --allowed 'web-*,app/*' --region eu-west-1
  auto-instance-profile report policy.yaml --allowed 'web-*,app/*' --html report.html
  auto-instance-profile report --tag-key InstanceProfile --allowed '*' --json

Exit codes: 0 all is right or left alone, 2 something would be changed, is blocked or stuck, 1 an error, or an instance that \
could not be read.")]
    Report(ReportArgs),
    /// Show the dead letters, ask, and send them back to the queue
    ///
    /// A letter is removed from the dead-letter queue only once its message is in the queue, so that none is lost. A message
    /// that is in the queue twice does no harm: the function looks twice, and finds the second time that all is done. Letters
    /// about the same instances are sent as one. Those that stay are seen by others at once, after an interrupt (Ctrl-C) too.
    #[command(after_help = "\
Examples:
  auto-instance-profile replay --dead-letter-queue \"$DLQ\" --queue \"$QUEUE\"
  auto-instance-profile replay --dead-letter-queue \"$DLQ\" --queue \"$QUEUE\" --only Denied --yes

Exit codes: 0 all that was to be replayed is, or there was no letter, 1 otherwise.")]
    Replay(ReplayArgs),
    /// Print a shell's completion script
    #[command(after_help = "\
Examples:
  source <(auto-instance-profile completions bash)
  auto-instance-profile completions zsh > \"${fpath[1]}/_auto-instance-profile\"
  auto-instance-profile completions fish > ~/.config/fish/completions/auto-instance-profile.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Shells there is a completion script for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("what").required(true).args(["policy", "print_default", "print_schema"]))]
pub struct CheckArgs {
    /// The policy file
    pub policy: Option<PathBuf>,
    /// Profiles that may be attached: patterns of path and name, comma-separated
    ///
    /// Without it, profiles that the policy spells out are held against no list.
    #[arg(long, value_name = "PATTERNS", env = "ALLOWED_PROFILES", hide_env_values = true, value_parser = Allowed::parse)]
    pub allowed: Option<Allowed>,
    /// Print the built-in policy, which holds where no file is named, as a file
    #[arg(long)]
    pub print_default: bool,
    /// The tag that names the profile in the built-in policy
    #[arg(long, value_name = "KEY", default_value = "InstanceProfile", requires = "print_default")]
    pub tag_key: String,
    /// Print the JSON Schema of policy files, for editors
    #[arg(long)]
    pub print_schema: bool,
}

/// The policy of a plan.
#[derive(Debug, Args)]
#[group(id = "rules", required = true, multiple = false)]
pub struct Rules {
    /// The policy file
    pub policy: Option<PathBuf>,
    /// Instead of a policy file: the tag that names the profile
    #[arg(long, value_name = "KEY")]
    pub tag_key: Option<String>,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A policy file, for an instance made up by the options below; or a real instance's id
    #[arg(value_name = "POLICY|INSTANCE")]
    pub subject: Option<String>,
    /// The policy file, where the argument is an instance
    #[arg(long, value_name = "FILE", conflicts_with = "tag_key")]
    pub policy: Option<PathBuf>,
    /// Instead of a policy file: the tag that names the profile
    #[arg(long, value_name = "KEY")]
    pub tag_key: Option<String>,
    /// Profiles that may be attached: patterns of path and name, comma-separated [default: *]
    #[arg(long, value_name = "PATTERNS", env = "ALLOWED_PROFILES", hide_env_values = true, value_parser = Allowed::parse)]
    pub allowed: Option<Allowed>,
    /// What happens to another profile on a stopped instance, where its rule does not say
    #[arg(long, value_name = "wait|swap", env = "WHEN_STOPPED", hide_env_values = true, default_value = "wait", hide_default_value = true, value_parser = when_stopped)]
    pub when_stopped: WhenStopped,
    /// The Region [default: where AWS's configuration points; offline, us-east-1]
    #[arg(long, value_parser = Region::parse)]
    pub region: Option<Region>,
    #[command(flatten)]
    pub made_up: MadeUp,
}

/// An instance made up on the command line.
#[derive(Debug, Args)]
#[command(next_help_heading = "An instance made up")]
pub struct MadeUp {
    /// Its tags, comma-separated, or one as the AWS CLI writes it (Key=KEY,Value=VALUE); may be repeated
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = tag_list)]
    pub tags: Vec<TagList>,
    /// One tag more, whose value may hold commas; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = tag)]
    pub tag: Vec<(String, String)>,
    /// Its state, such as running or stopped [default: running]
    #[arg(long, value_parser = state)]
    pub state: Option<InstanceState>,
    /// The profile it has: a name at the root path, or an ARN [default: none]
    #[arg(long, value_name = "PROFILE")]
    pub current: Option<String>,
    /// Its account, such as 123456789012
    #[arg(long, value_parser = AccountId::parse)]
    pub account: Option<AccountId>,
    /// Its VPC, such as vpc-0123456789abcdef0
    #[arg(long)]
    pub vpc: Option<String>,
    /// Its subnet, such as subnet-0123456789abcdef0
    #[arg(long)]
    pub subnet: Option<String>,
    /// Its type, such as t3.micro
    #[arg(long, value_name = "TYPE")]
    pub instance_type: Option<String>,
    /// linux or windows [default: linux]
    #[arg(long, value_parser = platform)]
    pub platform: Option<Platform>,
    /// The AWS service that manages it, such as eks.amazonaws.com [default: none]
    #[arg(long, value_name = "SERVICE")]
    pub managed_by: Option<String>,
}

#[derive(Debug, Args)]
pub struct FleetArgs {
    #[command(flatten)]
    pub rules: Rules,
    /// Profiles that may be attached: patterns of path and name, comma-separated
    #[arg(long, value_name = "PATTERNS", env = "ALLOWED_PROFILES", hide_env_values = true, value_parser = Allowed::parse)]
    pub allowed: Allowed,
    /// The Region [default: where AWS's configuration points]
    #[arg(long, value_parser = Region::parse)]
    pub region: Option<Region>,
    /// Only instances that pass this filter of EC2's; may be repeated, and all must pass
    #[arg(long, value_name = "Name=NAME,Values=VALUE,…", value_parser = filter)]
    pub filter: Vec<Filter>,
    /// What happens to another profile on a stopped instance, where its rule does not say: it waits until the instance runs, or
    /// is swapped
    #[arg(long, value_name = "wait|swap", env = "WHEN_STOPPED", hide_env_values = true, default_value = "wait", hide_default_value = true, value_parser = when_stopped)]
    pub when_stopped: WhenStopped,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// List the instances that stay as they are, however many
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// The function's queue: plan as an apply would that is given it
    #[arg(long, value_name = "URL", value_parser = queue_url)]
    pub queue: Option<String>,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// The function's queue: what a swap takes away is written down there first, so that the function puts it right should the
    /// tool die in between. Without it nothing is swapped
    #[arg(long, value_name = "URL", value_parser = queue_url)]
    pub queue: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// How many changes a second; EC2 gives an account 5, which everybody in it shares
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub writes_per_second: u32,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Write the report as one HTML page that needs nothing else; - writes it to standard output, instead of the report
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The queue that holds what was given up
    #[arg(long, value_name = "URL", value_parser = queue_url)]
    pub dead_letter_queue: String,
    /// The queue that the function reads
    #[arg(long, value_name = "URL", value_parser = queue_url)]
    pub queue: String,
    /// The Region [default: the one in the URL, or where AWS's configuration points]
    #[arg(long, value_parser = Region::parse)]
    pub region: Option<Region>,
    /// Only letters with this type of error, such as Denied; may be repeated. What cannot be read is replayed only where its
    /// type is named
    #[arg(long, value_name = "ERRORTYPE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Take this many letters at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max: Option<u32>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print JSON; needs --yes
    #[arg(long, requires = "yes")]
    pub json: bool,
}

/// An allow-list, and the text it was read from.
#[derive(Debug, Clone)]
pub struct Allowed {
    pub text: String,
    pub list: AllowList,
}

impl Allowed {
    fn parse(text: &str) -> Result<Self, String> {
        let list = AllowList::parse(text).map_err(|why| format!("the allow-list {why}"))?;
        Ok(Self { text: text.to_owned(), list })
    }

    /// The list that allows everything.
    pub fn everything() -> Result<Self, String> {
        Self::parse("*")
    }
}

impl MadeUp {
    /// The first option that is given, where one is: a real instance takes none of them.
    pub fn first_given(&self) -> Option<&'static str> {
        [
            ("--tags", !self.tags.is_empty()),
            ("--tag", !self.tag.is_empty()),
            ("--state", self.state.is_some()),
            ("--current", self.current.is_some()),
            ("--account", self.account.is_some()),
            ("--vpc", self.vpc.is_some()),
            ("--subnet", self.subnet.is_some()),
            ("--instance-type", self.instance_type.is_some()),
            ("--platform", self.platform.is_some()),
            ("--managed-by", self.managed_by.is_some()),
        ]
        .into_iter()
        .find_map(|(option, given)| given.then_some(option))
    }

    /// Its tags.
    ///
    /// # Errors
    /// A key that is given twice.
    pub fn all_tags(&self) -> Result<Tags, String> {
        let mut tags = BTreeMap::new();
        for (key, value) in self.tags.iter().flat_map(|list| &list.0).chain(&self.tag) {
            if tags.insert(key.clone(), value.clone()).is_some() {
                return Err(format!("the tag {key} is given twice; an instance has each key once"));
            }
        }
        Ok(tags)
    }
}

fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("a tag is KEY=VALUE, such as Environment=prod".to_owned()),
    }
}

/// The arguments, of which one that ends with a comma goes on in the next: a list is typed with blanks in it.
pub fn joined(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for arg in args {
        let goes_on = |last: &OsString| last.as_encoded_bytes().ends_with(b",");
        match joined.last_mut() {
            Some(last) if goes_on(last) && !arg.as_encoded_bytes().starts_with(b"-") => {
                last.push(arg);
            }
            Some(_) | None => joined.push(arg),
        }
    }
    joined
}

/// Several tags of one argument.
#[derive(Debug, Clone)]
pub struct TagList(Vec<(String, String)>);

fn tag_list(text: &str) -> Result<TagList, String> {
    if let Some(tag) = as_the_aws_cli_has_it(text)? {
        return Ok(TagList(vec![tag]));
    }
    let tags = text.split(',').map(|part| match part.trim_start() {
        "" => Err(format!(
            "{text:?} has a comma with no tag behind it; several tags are one argument, such as A=b,C=d or \"A=b, C=d\""
        )),
        part => tag(part),
    });
    tags.collect::<Result<_, _>>().map(TagList)
}

/// The one tag that `Key=…,Value=…` means. Two tags named Key and Value are given by --tag.
fn as_the_aws_cli_has_it(text: &str) -> Result<Option<(String, String)>, String> {
    let Some((key, value)) = text.strip_prefix("Key=").and_then(|rest| rest.split_once(",Value="))
    else {
        return Ok(None);
    };
    if key.is_empty() || key.contains(',') || value.contains(',') {
        return Err("Key=KEY,Value=VALUE is one tag; give each one its own --tags, or write KEY=VALUE,KEY=VALUE".to_owned());
    }
    Ok(Some((key.to_owned(), value.to_owned())))
}

fn when_stopped(text: &str) -> Result<WhenStopped, String> {
    match text {
        "wait" => Ok(WhenStopped::Wait),
        "swap" => Ok(WhenStopped::Swap),
        _ => Err("it is wait or swap".to_owned()),
    }
}

fn state(text: &str) -> Result<InstanceState, String> {
    let state = InstanceState::from_ec2(text);
    if matches!(state, InstanceState::Unknown(_)) {
        let states = "pending, running, stopping, stopped, shutting-down or terminated";
        return Err(format!("a state is {states}"));
    }
    Ok(state)
}

fn platform(text: &str) -> Result<Platform, String> {
    [Platform::Linux, Platform::Windows]
        .into_iter()
        .find(|platform| platform.as_str() == text)
        .ok_or_else(|| "a platform is linux or windows".to_owned())
}

fn filter(text: &str) -> Result<Filter, String> {
    let parts = text.strip_prefix("Name=").and_then(|rest| rest.split_once(",Values="));
    match parts {
        Some((name, values)) if !name.is_empty() && !values.split(',').any(str::is_empty) => {
            Ok(Filter {
                name: name.to_owned(),
                values: values.split(',').map(str::to_owned).collect(),
            })
        }
        Some(_) | None => {
            Err("a filter is Name=NAME,Values=VALUE, such as Name=tag:Environment,Values=dev,test"
                .to_owned())
        }
    }
}

fn queue_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match rest.and_then(|rest| rest.split_once('/')) {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => Ok(text.to_owned()),
        Some(_) | None => Err(
            "a queue is named by its URL, such as https://sqs.eu-west-1.amazonaws.com/123456789012/events".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_have_blanks_in_it() {
        for (typed, is) in [
            ("plan p --allowed a, b,c", "plan|p|--allowed|a,b,c"),
            ("--tags A=b, C=d, E=f p", "--tags|A=b,C=d,E=f|p"),
            ("--only a, --max 1", "--only|a,|--max|1"),
            ("a b", "a|b"),
            ("a,", "a,"),
            ("", ""),
        ] {
            let joined = joined(typed.split(' ').map(OsString::from));
            let joined: Vec<_> = joined.iter().map(|arg| arg.to_str().unwrap()).collect();
            assert_eq!(joined.join("|"), is, "{typed}");
        }
    }
}
