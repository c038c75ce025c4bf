//! The completions of the Debian package: each is loaded by its own shell from where it lies, and completes what somebody types.

use std::{fs, path::Path};

use crate::{Case, common::run, deb::unpacked};

pub const BASH: &[Case] = &[("completes_what_is_typed", bash)];
pub const ZSH: &[Case] = &[("completes_what_is_typed", zsh)];
pub const FISH: &[Case] = &[("completes_what_is_typed", fish)];

/// What stands before the cursor when TAB is pressed, and what its last word becomes: a command, a flag, a value.
const TYPED: [(&str, &str); 3] = [
    ("zmigrate cut", "cutover"),
    ("zmigrate push --com", "--compress"),
    ("zmigrate cutover start --verify c", "content"),
];

/// SCRIPT FILE LINE: calls what the file has registered as readline does, for one line a word.
const ASK_BASH: &str = r#"
set -eu
source "$1"
[[ $(complete -p zmigrate) =~ -F\ ([^ ]+) ]]
read -ra COMP_WORDS <<<"$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"${BASH_REMATCH[1]}" zmigrate "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// The `.zshrc` of a shell where ^T says what its line is. The directory with the completions is `$ZMIGRATE_FPATH`.
const ZSHRC: &str = r#"
fpath=("$ZMIGRATE_FPATH" $fpath)
autoload -Uz compinit
compinit -u -D
said() { print -r -- "$BUFFER" >"$HOME/line"; exit }
zle -N said
bindkey '^T' said
PS1=ready
"#;

/// SCRIPT LINE: types the line, TAB and ^T into such a shell, for what the line is then.
const ASK_ZSH: &str = r#"
set -e
zmodload zsh/zpty
zpty shell 'zsh -d -i'
zpty -r shell said '*ready*'
zpty -n -w shell "$1"$'\t\x14'
while zpty -r shell said; do :; done
cat "$HOME/line"
"#;

/// SCRIPT DIR LINE: a word and its description in each line.
const ASK_FISH: &str = "set fish_complete_path $argv[1]; complete -C $argv[2]";

/// Runs a shell with nobody's own configuration: its home is an empty directory, but for what is in `home` already.
fn shell(home: &Path, variables: &[String], command: &[&str]) -> String {
    let home = format!("HOME={}", home.display());
    let mut args = vec!["-i", &home, "TERM=vt100", "LC_ALL=C"];
    args.extend(variables.iter().map(String::as_str));
    // Who waits for keys that do not come waits for ever.
    args.extend(["timeout", "60"]);
    args.extend(command);
    run("env", &args).unwrap()
}

fn bash(deb: &Path) {
    let (dir, home) = (unpacked(deb), tempfile::tempdir().unwrap());
    let file = dir.path().join("usr/share/bash-completion/completions/zmigrate").display().to_string();
    for (typed, whole) in TYPED {
        let said = shell(home.path(), &[], &["bash", "--norc", "-c", ASK_BASH, "bash", &file, typed]);
        assert_eq!(said.lines().collect::<Vec<_>>(), [whole], "{typed}");
    }
}

fn zsh(deb: &Path) {
    let (dir, home) = (unpacked(deb), tempfile::tempdir().unwrap());
    fs::write(home.path().join(".zshrc"), ZSHRC).unwrap();
    let variables = [format!("ZMIGRATE_FPATH={}", dir.path().join("usr/share/zsh/vendor-completions").display())];
    for (typed, whole) in TYPED {
        let line = shell(home.path(), &variables, &["zsh", "-f", "-c", ASK_ZSH, "zsh", typed]);
        fs::remove_file(home.path().join("line")).unwrap();
        let (before, _) = typed.rsplit_once(' ').unwrap();
        // What is whole is followed by a space, or by the sign before a value.
        assert_eq!(line.trim_end_matches(['\n', ' ', '=']), format!("{before} {whole}"), "{typed}");
    }
}

fn fish(deb: &Path) {
    let (dir, home) = (unpacked(deb), tempfile::tempdir().unwrap());
    let at = |path: &str| dir.path().join(path).display().to_string();
    // It loads completions of programs that are there.
    let variables = [format!("PATH={}:/usr/bin:/bin", at("usr/bin"))];
    let completions = at("usr/share/fish/vendor_completions.d");
    for (typed, whole) in TYPED {
        let said = shell(home.path(), &variables, &["fish", "--no-config", "-c", ASK_FISH, &completions, typed]);
        let words = said.lines().map(|line| line.split('\t').next().unwrap()).collect::<Vec<_>>();
        assert_eq!(words, [whole], "{typed}");
    }
}
