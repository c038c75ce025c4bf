//! Argument lists of `zfs send` and `zfs receive`. Pure.
//!
//! Invariant: never `-F`, never `-R`; every receive is `-u`; nothing that could be read as an option where a name goes.

use crate::port::zfs::{Base, ReceiveSpec, SendFlags, SendSpec};

/// The arguments after `zfs`, for sending.
pub fn send(spec: &SendSpec) -> Result<Vec<String>, String> {
    let mut args = vec!["send".to_owned()];
    match spec {
        SendSpec::Full { snapshot, flags } => {
            push_flags(&mut args, *flags);
            args.push(snapshot.to_string());
        }
        SendSpec::Incremental { base, snapshot, flags } => {
            push_flags(&mut args, *flags);
            let base = match base {
                Base::Snapshot(name) => name.as_str(),
                Base::Bookmark(name) => name.as_str(),
            };
            args.extend(["-i".to_owned(), base.to_owned(), snapshot.to_string()]);
        }
        SendSpec::Resume { token } => args.extend(["-t".to_owned(), resume_token(token)?.to_owned()]),
    }
    Ok(args)
}

/// What a send works on, for messages.
pub fn send_subject(spec: &SendSpec) -> String {
    match spec {
        SendSpec::Full { snapshot, .. } => format!("send {snapshot}"),
        SendSpec::Incremental { base: Base::Snapshot(base), snapshot, .. } => format!("send {snapshot} from {base}"),
        SendSpec::Incremental { base: Base::Bookmark(base), snapshot, .. } => format!("send {snapshot} from {base}"),
        SendSpec::Resume { .. } => "resume a send".to_owned(),
    }
}

/// The arguments after `zfs`, for receiving.
pub fn receive(spec: &ReceiveSpec) -> Result<Vec<String>, String> {
    let mut args = vec!["receive".to_owned(), "-u".to_owned()];
    if spec.resumable {
        args.push("-s".to_owned());
    }
    if let Some(origin) = &spec.origin {
        args.extend(["-o".to_owned(), format!("origin={origin}")]);
    }
    for (name, value) in &spec.set {
        args.extend(["-o".to_owned(), assignment(name, value)?]);
    }
    args.push(spec.snapshot.to_string());
    Ok(args)
}

/// `name=value`.
pub fn assignment(name: &str, value: &str) -> Result<String, String> {
    if value.contains('\0') {
        return Err(format!("the value of {name} holds a NUL"));
    }
    Ok(format!("{}={value}", property(name)?))
}

/// The name of a property, native or user (`zfsprops(7)`), which cannot be taken for an option or a list.
pub fn property(name: &str) -> Result<&str, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:@#/".contains(&b);
    let ok = name.len() <= 255 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(plain);
    if ok {
        Ok(name)
    } else {
        Err(format!("{:?} is not the name of a property", name.chars().take(255).collect::<String>()))
    }
}

/// The tag of a hold (`zfs-hold(8)`), which cannot be taken for an option.
pub fn hold_tag(tag: &str) -> Result<&str, String> {
    let ok =
        tag.len() <= 255 && tag.starts_with(|c: char| c.is_ascii_alphanumeric()) && !tag.contains(char::is_control);
    if ok { Ok(tag) } else { Err(format!("{:?} is not the tag of a hold", tag.chars().take(255).collect::<String>())) }
}

/// `1-<hex>-<hex>-<hex>` (`libzfs_sendrecv.c`). A token is at most the hex of a few packed numbers, names and lists.
fn resume_token(token: &str) -> Result<&str, String> {
    const MAX_TOKEN_BYTES: usize = 64 << 10;
    let ok = token.len() <= MAX_TOKEN_BYTES
        && token.starts_with(|c: char| c.is_ascii_digit())
        && token.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if ok { Ok(token) } else { Err("not a resume token".to_owned()) }
}

fn push_flags(args: &mut Vec<String>, flags: SendFlags) {
    let all = [(flags.large_block, "-L"), (flags.compressed, "-c"), (flags.embed, "-e"), (flags.raw, "-w")];
    args.extend(all.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends() {
        let flags = SendFlags { large_block: true, compressed: true, embed: true, raw: true };
        let snapshot: crate::types::SnapshotName = "tank/a b@1".parse().unwrap();
        let full = SendSpec::Full { snapshot: snapshot.clone(), flags };
        assert_eq!(send(&full).unwrap(), ["send", "-L", "-c", "-e", "-w", "tank/a b@1"]);
        let base = Base::Bookmark("tank/a b#0".parse().unwrap());
        let incremental = SendSpec::Incremental { base, snapshot, flags: SendFlags::default() };
        assert_eq!(send(&incremental).unwrap(), ["send", "-i", "tank/a b#0", "tank/a b@1"]);
        assert_eq!(send(&SendSpec::Resume { token: "1-a-b0-ff".into() }).unwrap(), ["send", "-t", "1-a-b0-ff"]);
        for bad in ["", "-F", "1-a b", "1-x", "--saved"] {
            assert!(send(&SendSpec::Resume { token: bad.into() }).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn receives() {
        let mut spec = ReceiveSpec {
            snapshot: "tank/r@1".parse().unwrap(),
            resumable: true,
            origin: Some("tank/o@0".parse().unwrap()),
            set: vec![("readonly".into(), "on".into())],
        };
        let expected = ["receive", "-u", "-s", "-o", "origin=tank/o@0", "-o", "readonly=on", "tank/r@1"];
        assert_eq!(receive(&spec).unwrap(), expected);
        for bad in ["-F", "", "a=b", "a b", "a,b", "ä"] {
            spec.set = vec![(bad.into(), "on".into())];
            assert!(receive(&spec).is_err(), "{bad:?} was taken");
        }
        assert!(hold_tag("-r").is_err() && hold_tag("zmigrate:job 1").is_ok());
    }
}
