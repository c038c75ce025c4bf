//! Text for terminals of 80 columns.

/// The width that people are promised.
const WIDTH: usize = 80;

/// Adds words behind `head`, and further lines `indent` columns in. A word longer than a line stays whole: it may be a
/// path or a name that somebody copies.
pub fn paragraph(to: &mut String, head: &str, indent: usize, words: &str) {
    let mut line = head.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            to.push_str(line.trim_end());
            to.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    to.push_str(line.trim_end());
    to.push('\n');
}

/// The text with its lines and without any other control character; for what comes from another host.
pub fn printable_lines(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// The text with each control character replaced, so that it cannot move a cursor or begin a line of its own.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}
