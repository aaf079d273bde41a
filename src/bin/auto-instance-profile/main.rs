//! The command-line tool: the same rules, checks and writes as the function, at a person's word.

mod args;
mod ask;
mod check;
mod explain;
mod fleet;
mod letters;
mod plan;
mod policy;
mod replay;
mod report;
mod show;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use auto_instance_profile::cloud::CloudError;
use auto_instance_profile::failure::chain;
use auto_instance_profile::queue::QueueError;
use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Shell};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Where not even that can be written, nobody is there to be told.
            let _ = answer.print();
            // Not clap's own 2, which `plan` has a meaning for.
            return if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(cli.command, &mut anstream::stdout()) {
        Ok(end) => end.into(),
        // Whoever reads us has read enough.
        Err(Trouble::Output(why)) if why.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(trouble) => {
            let (bad, plain) = (show::BAD.render(), show::BAD.render_reset());
            let _ = writeln!(anstream::stderr(), "{bad}error:{plain} {}", chain(&trouble));
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

fn run(command: Command, out: &mut impl Write) -> Result<End, Trouble> {
    match command {
        Command::Check(args) => check::run(&args, out),
        Command::Explain(args) => explain::run(&args, out),
        Command::Plan(args) => fleet::plan(&args, out),
        Command::Apply(args) => fleet::apply(&args, out),
        Command::Report(args) => report::run(&args, out),
        Command::Replay(args) => replay::run(&args, out),
        Command::Completions { shell } => {
            let shell = match shell {
                Shell::Bash => clap_complete::Shell::Bash,
                Shell::Zsh => clap_complete::Shell::Zsh,
                Shell::Fish => clap_complete::Shell::Fish,
            };
            // Into memory first: a shell that stops reading is no reason to panic.
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "auto-instance-profile",
                &mut script,
            );
            out.write_all(&script)?;
            Ok(End::Done)
        }
    }
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
