//! The command-line tool: the same rules, checks and writes as the function, at a person's word.

mod apply;
mod args;
mod ask;
mod check;
mod explain;
mod fleet;
mod letters;
mod output;
mod plan;
mod policy;
mod replay;
mod report;
mod session;
mod show;

use std::error::Error;
use std::io::{self, Stdout, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anstream::AutoStream;
use auto_instance_profile::cloud::CloudError;
use auto_instance_profile::failure::chain;
use auto_instance_profile::queue::QueueError;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Shell};
use crate::ask::Stop;
use crate::output::{Printer, UntilClosed};

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(args::joined(std::env::args_os())) {
        Ok(cli) => cli,
        Err(answer) => {
            // Where not even that can be written, nobody is there to be told.
            let _ = answer.print();
            // Not clap's own 2, which `plan` has a meaning for.
            return if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.command) {
        Ok(end) => end.into(),
        Err(trouble) => {
            let (bad, plain) = (show::BAD.render(), show::BAD.render_reset());
            let mut why = chain(&trouble);
            if let Trouble::NoCredentials(_) = trouble {
                // The SDK's list of what it tried, a line each, which the library's errors keep on one.
                why = why.replace("\\n", "\n");
            }
            let _ = writeln!(anstream::stderr(), "{bad}error:{plain} {why}");
            ExitCode::FAILURE
        }
    }
}

/// How a command that ran to its end ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All is well.
    Done,
    /// Something is wrong, and was said.
    Wrong,
    /// A plan holds changes, or a report shows what is not right.
    SomethingToDo,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        match end {
            End::Done => Self::SUCCESS,
            End::Wrong => Self::FAILURE,
            End::SomethingToDo => Self::from(2),
        }
    }
}

/// What keeps a command from running to its end.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the output cannot be written")]
    Output(#[from] io::Error),
    /// Of a command that may have changed something by then.
    #[error("the output cannot be written ({why}). {ended}")]
    Unwritten { why: io::Error, ended: String },
    #[error("{file} cannot be read")]
    Unreadable { file: String, source: io::Error },
    #[error(
        "{file} is no text in UTF-8, which a policy file must be (byte {at} is the first that is not)"
    )]
    NoText { file: String, at: usize },
    #[error("{0}")]
    Policy(String),
    #[error("{0}")]
    Usage(String),
    #[error(
        "no AWS Region is known; name one by --region eu-west-1, by AWS_REGION or in AWS's configuration file"
    )]
    NoRegion,
    #[error(
        "there are no AWS credentials to call with; name a profile of AWS's configuration file by AWS_PROFILE, sign on by \
         `aws sso login`, or set AWS_ACCESS_KEY_ID and what belongs to it"
    )]
    NoCredentials(#[source] Box<dyn Error + Send + Sync>),
    #[error("the instances cannot be listed")]
    List(#[source] CloudError),
    #[error("{left_alone}: without a terminal to ask at, {command} needs --yes")]
    NobodyToAsk { command: &'static str, left_alone: &'static str },
    #[error("{file} cannot be written")]
    Unwritable { file: String, source: io::Error },
    #[error("the dead letters cannot be read, and nothing was replayed")]
    Letters(#[source] QueueError),
}

fn run(command: Command) -> Result<End, Trouble> {
    match command {
        Command::Check(args) => reading(|out| check::run(&args, out)),
        Command::Explain(args) => reading(|out| explain::run(&args, out)),
        Command::Plan(args) => reading(|out| fleet::plan(&args, out)),
        Command::Report(args) => reading(|out| report::run(&args, out)),
        Command::Apply(args) => writing(|stop, out| apply::run(&args, stop, out)),
        Command::Replay(args) => writing(|stop, out| replay::run(&args, stop, out)),
        Command::Completions { shell } => reading(|out| complete(shell, out)),
    }
}

/// Runs a command that changes nothing.
fn reading(
    command: impl FnOnce(&mut UntilClosed<AutoStream<Stdout>>) -> Result<End, Trouble>,
) -> Result<End, Trouble> {
    let mut out = UntilClosed::new(anstream::stdout());
    let end = command(&mut out)?;
    out.flush()?;
    Ok(end)
}

/// Runs a command whose work neither a signal nor its output's reader may end half-way.
fn writing(
    command: impl FnOnce(&Stop, &mut Printer) -> Result<End, Trouble>,
) -> Result<End, Trouble> {
    let mut out = Printer::before(anstream::stdout())?;
    let stop = Stop::on_signals(out.has_failed())?;
    command(&stop, &mut out)
}

fn complete(shell: Shell, out: &mut impl Write) -> Result<End, Trouble> {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Into memory first: a shell that stops reading is no reason to panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "auto-instance-profile", &mut script);
    out.write_all(&script)?;
    Ok(End::Done)
}

/// The calls to AWS wait more than they work: one thread is enough.
#[tokio::main(flavor = "current_thread")]
async fn wait_for<T>(work: impl Future<Output = T>) -> T {
    work.await
}

#[expect(clippy::disallowed_methods, reason = "a person asks how old things are")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
