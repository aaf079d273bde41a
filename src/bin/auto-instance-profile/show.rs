//! How things look on a terminal, and off one.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use auto_instance_profile::model::ProfileArn;
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;

/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What wants a second look.
pub const UNSURE: Style = AnsiColor::Yellow.on_default();
/// Errors, and what takes something away.
pub const BAD: Style = AnsiColor::Red.on_default();
/// What is there for completeness.
pub const FAINT: Style = Style::new().dimmed();
/// Headings.
pub const HEADING: Style = Style::new().bold();

/// Text from elsewhere with everything escaped that a terminal would take for a command or a change of direction.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if char.is_control() || turns {
            // Writing to a string cannot fail.
            let _ = write!(safe, "{}", char.escape_unicode());
        } else {
            safe.push(char);
        }
    }
    safe
}

/// `1 error`, `2 errors`.
pub fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A profile by path and name, where it is an ARN: the rest is the same for a whole account.
pub fn short(profile: &str) -> String {
    match ProfileArn::parse(profile) {
        Ok(arn) => arn.path_and_name().to_owned(),
        Err(_) => printable(profile),
    }
}

/// A sentence with the profiles in it by path and name.
pub fn shortened(sentence: &str) -> String {
    let words = sentence.split(' ').map(|word| {
        let profile = word.trim_end_matches([';', ',', ':', '.']);
        match ProfileArn::parse(profile) {
            Ok(arn) => word.replacen(profile, arn.path_and_name(), 1),
            Err(_) => printable(word),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A table with these headings and no lines. Its rows are written by [`written`].
pub fn table(headings: &[&str]) -> Table {
    let is_terminal = io::stdout().is_terminal();
    let coloured = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if coloured {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    // Off a terminal nothing is wrapped: a row is a line.
    table.set_content_arrangement(if is_terminal {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    table.set_header(headings.iter().map(|text| Cell::new(text).add_attribute(Attribute::Bold)));
    table
}

/// A table as text.
pub fn written(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A cell's text, or a dash where there is none.
pub fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-".to_owned())
}

/// An answer for a program.
pub fn write_json(answer: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let json = serde_json::to_string_pretty(answer).map_err(io::Error::from)?;
    writeln!(out, "{json}")
}

/// A line on standard error that says how far a long read is, where somebody is there to see it.
pub struct Progress {
    seen: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { seen: io::stderr().is_terminal() }
    }

    /// Writes over what was said before.
    pub fn say(&self, text: &str) {
        if self.seen {
            let mut err = io::stderr().lock();
            // A progress line that cannot be written is no reason to stop.
            let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.say("");
    }
}
