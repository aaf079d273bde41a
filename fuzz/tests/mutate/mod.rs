//! Inputs made of seeds: their words exchanged, repeated, moved and broken. Words, texts in quotes and what stands in
//! brackets, more than bytes, because most texts with a broken byte are no JSON and no YAML, and a reader gives them up
//! before it comes to what matters.

use std::fmt;
use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::Index;

/// No input is longer.
const LONGEST: usize = 64_000;

/// An input; it shows itself as text.
#[derive(Clone)]
pub struct Input(pub Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

/// One change; places are shares of the whole.
#[derive(Debug, Clone)]
enum Change {
    /// A text in quotes, or a word, becomes another; keys and quotes stay.
    Value(Index, Word),
    /// A value, or all that stands in a pair of brackets, goes, with a comma; or is there twice.
    Element(Index, bool),
    /// A line goes, or is there twice.
    Line(Index, bool),
    Replace(Index, Word),
    Insert(Index, Word),
    Delete(Index, usize),
    Repeat(Index, usize, usize),
    Swap(Index, Index),
    /// A piece of another seed.
    Graft(Index, Index, Index, usize),
    Byte(Index, u8),
    CutOff(Index),
}

#[derive(Debug, Clone)]
enum Word {
    /// One that means something to the room.
    Known(Index),
    /// One of the input's own.
    Own(Index),
    Any(String),
}

/// Inputs made of these seeds and words.
pub fn inputs(seeds: Vec<Vec<u8>>, words: &'static [&'static str]) -> impl Strategy<Value = Input> {
    let few = prop::collection::vec(change(), 1..3);
    let many = prop::collection::vec(change(), 3..9);
    (any::<Index>(), prop_oneof![3 => few, 1 => many]).prop_map(move |(seed, changes)| {
        let seed: &Vec<u8> = seed.get(&seeds);
        let mut tokens = tokens(seed);
        for change in changes {
            apply(&change, &mut tokens, &seeds, words);
        }
        let mut input = tokens.concat();
        input.truncate(LONGEST);
        Input(input)
    })
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    let word = || {
        prop_oneof![
            4 => place().prop_map(Word::Known),
            2 => place().prop_map(Word::Own),
            1 => any::<String>().prop_map(|text| Word::Any(text.chars().take(12).collect())),
            1 => any::<i64>().prop_map(|number| Word::Any(number.to_string())),
        ]
    };
    prop_oneof![
        24 => (place(), word()).prop_map(|(at, word)| Change::Value(at, word)),
        8 => (place(), any::<bool>()).prop_map(|(at, twice)| Change::Element(at, twice)),
        4 => (place(), any::<bool>()).prop_map(|(at, twice)| Change::Line(at, twice)),
        4 => (place(), word()).prop_map(|(at, word)| Change::Replace(at, word)),
        2 => (place(), word()).prop_map(|(at, word)| Change::Insert(at, word)),
        1 => (place(), 1..8_usize).prop_map(|(at, length)| Change::Delete(at, length)),
        1 => (place(), 1..40_usize, prop_oneof![8 => 1..4_usize, 1 => 4..400_usize])
            .prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        1 => (place(), place()).prop_map(|(one, other)| Change::Swap(one, other)),
        1 => (place(), place(), place(), 1..60_usize)
            .prop_map(|(at, seed, from, length)| Change::Graft(at, seed, from, length)),
        1 => (place(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => place().prop_map(Change::CutOff),
    ]
}

fn apply(change: &Change, tokens: &mut Vec<Vec<u8>>, seeds: &[Vec<u8>], words: &[&str]) {
    let size = tokens.len();
    let from = |at: &Index| at.index(size + 1);
    let range =
        |at: &Index, length: usize| at.index(size + 1)..(at.index(size + 1) + length).min(size);
    let text = |word: &Word, tokens: &[Vec<u8>]| match word {
        Word::Known(which) => which.get(words).as_bytes().to_vec(),
        Word::Own(which) if !tokens.is_empty() => which.get(tokens).clone(),
        Word::Own(_) => Vec::new(),
        Word::Any(text) => text.as_bytes().to_vec(),
    };
    match change {
        Change::Insert(at, word) => tokens.insert(from(at), text(word, tokens)),
        Change::Graft(at, seed, start, length) => {
            let seed: &Vec<u8> = seed.get(seeds);
            let theirs = self::tokens(seed);
            let start = start.index(theirs.len() + 1);
            let piece = theirs.into_iter().skip(start).take(*length);
            tokens.splice(from(at)..from(at), piece);
        }
        Change::Delete(at, length) => drop(tokens.drain(range(at, *length))),
        Change::Repeat(at, length, times) => {
            let piece = tokens[range(at, *length)].to_vec();
            let whole: usize = piece.iter().map(Vec::len).sum();
            let times = (*times).min(LONGEST / whole.max(1));
            let place = from(at);
            let length = piece.len() * times;
            tokens.splice(place..place, piece.into_iter().cycle().take(length));
        }
        Change::CutOff(at) => tokens.truncate(from(at)),
        _ if size == 0 => {}
        Change::Value(at, word) => {
            // A key that nobody knows ends the reading; the other changes make enough of them.
            let is_key = |at: usize| tokens.get(at + 1).is_some_and(|token| token == b":");
            let values: Vec<usize> =
                (0..size).filter(|at| is_value(&tokens[*at]) && !is_key(*at)).collect();
            if values.is_empty() {
                return;
            }
            let place = *at.get(&values);
            let word = text(word, tokens);
            let quoted = tokens[place].starts_with(b"\"") && !word.starts_with(b"\"");
            let bare = word.starts_with(b"[") || word.starts_with(b"{") || word == b"null";
            tokens[place] = if quoted && !bare { [b"\"", &word[..], b"\""].concat() } else { word };
        }
        Change::Element(at, twice) => {
            let element = element(tokens, at.index(size));
            if *twice {
                let mut copy = vec![b",".to_vec()];
                copy.extend_from_slice(&tokens[element.clone()]);
                tokens.splice(element.end..element.end, copy);
            } else {
                let is_comma = |at: usize| tokens.get(at).is_some_and(|token| token == b",");
                let end = element.end + usize::from(is_comma(element.end));
                tokens.drain(element.start..end);
            }
        }
        Change::Line(at, twice) => {
            let at = at.index(size);
            let ends = |token: &Vec<u8>| token == b"\n";
            let start = tokens[..at].iter().rposition(ends).map_or(0, |end| end + 1);
            let end = tokens[at..].iter().position(ends).map_or(size, |end| at + end + 1);
            if *twice {
                let copy = tokens[start..end].to_vec();
                tokens.splice(end..end, copy);
            } else {
                tokens.drain(start..end);
            }
        }
        Change::Replace(at, word) => tokens[at.index(size)] = text(word, tokens),
        Change::Swap(one, other) => tokens.swap(one.index(size), other.index(size)),
        Change::Byte(at, byte) => {
            let token = &mut tokens[at.index(size)];
            let length = token.len();
            if let Some(at) = token.get_mut(usize::from(*byte) % length.max(1)) {
                *at = *byte;
            }
        }
    }
}

/// A token, or from an opening bracket to the one that closes it.
fn element(tokens: &[Vec<u8>], at: usize) -> Range<usize> {
    let mut depth = 0_usize;
    for (place, token) in tokens.iter().enumerate().skip(at) {
        match token.as_slice() {
            b"{" | b"[" => depth += 1,
            b"}" | b"]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at..place + 1;
        }
    }
    at..tokens.len()
}

fn is_value(token: &[u8]) -> bool {
    token.first().is_some_and(|first| *first == b'"' || first.is_ascii_alphanumeric())
}

/// A text's texts in quotes, its words, its runs of blanks, and every other byte on its own.
fn tokens(text: &[u8]) -> Vec<Vec<u8>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.first() {
        let run = |is: fn(u8) -> bool| rest.iter().take_while(|byte| is(**byte)).count();
        let length = match first {
            b'"' => in_quotes(rest),
            b' ' | b'\t' => run(|byte| byte == b' ' || byte == b'\t'),
            _ => run(is_word).max(1),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token.to_vec());
        rest = behind;
    }
    tokens
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// The length of the text in quotes that begins here; of the quote, if it is never closed.
fn in_quotes(text: &[u8]) -> usize {
    let mut escaped = false;
    for (place, byte) in text.iter().enumerate().skip(1) {
        match byte {
            b'\n' => return 1,
            b'"' if !escaped => return place + 1,
            _ => escaped = *byte == b'\\' && !escaped,
        }
    }
    1
}
