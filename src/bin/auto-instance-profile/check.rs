//! `check`: what there is to say about a policy file.

use std::io::Write;

use auto_instance_profile::policy::file::{Severity, built_in, check, json_schema};

use crate::args::{Allowed, CheckArgs};
use crate::policy::{line, read};
use crate::show::{BAD, UNSURE, counted, printable};
use crate::{End, Trouble};

pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<End, Trouble> {
    if args.print_schema {
        write!(out, "{}", json_schema())?;
        return Ok(End::Done);
    }
    let Some(file) = &args.policy else {
        return print_default(&args.tag_key, out);
    };
    let everything = Allowed::everything().map_err(Trouble::Usage)?;
    let allowed = args.allowed.as_ref().unwrap_or(&everything);
    let checked = check(&read(file)?, &allowed.list);
    let name = file.display().to_string();
    for complaint in &checked.complaints {
        let style = match complaint.severity {
            Severity::Error => BAD,
            Severity::Warning => UNSURE,
        };
        writeln!(out, "{style}{}{style:#}", printable(&line(&name, complaint)))?;
    }
    let of =
        |severity| checked.complaints.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
    writeln!(out, "{name}: {}, {}", counted(errors, "error"), counted(warnings, "warning"))?;
    if args.allowed.is_none() && checked.policy.is_some() {
        writeln!(
            out,
            "The profiles it names were held against no allow-list; --allowed names one."
        )?;
    }
    Ok(if errors == 0 { End::Done } else { End::Wrong })
}

/// The built-in policy, unless this tag cannot be in it.
fn print_default(tag_key: &str, out: &mut impl Write) -> Result<End, Trouble> {
    let everything = Allowed::everything().map_err(Trouble::Usage)?;
    let yaml = built_in(tag_key);
    let checked = check(&yaml, &everything.list);
    if let Some(complaint) = checked.complaints.first() {
        return Err(Trouble::Usage(format!(
            "no policy can be made of --tag-key {tag_key:?}: {}",
            complaint.message
        )));
    }
    write!(out, "{yaml}")?;
    Ok(End::Done)
}
