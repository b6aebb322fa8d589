//! Every log story of the tests, as mailers, forums, containers and viewers show it: the same answer, or one less sure
//! that names the lines that look cut or wrapped.

use std::io::Cursor;

use serde_json::Value;

/// What an answer states, without times and wordings.
type Answer = Vec<[String; 6]>;

/// The incidents of `text`, and whether lines of it look cut.
fn answer(text: &[u8]) -> (Answer, bool) {
    let read = poisontrace_import::read_inputs(vec![("text".to_owned(), Cursor::new(text.to_vec()))], true);
    let Ok(imported) = read else {
        return (Vec::new(), false);
    };
    let looks_cut = !imported.looks_cut.is_empty();
    let incidents = imported.incidents.into_iter().map(|incident| {
        let value = serde_json::to_value(poisontrace_report::document(incident)).unwrap();
        let pointers = [
            "/outcome",
            "/cause",
            "/page/gpa",
            "/page/pfn",
            "/vm/pid",
            "/confidence",
        ];
        pointers.map(|pointer| value.pointer(pointer).unwrap_or(&Value::Null).to_string())
    });
    let mut answer: Answer = incidents.collect();
    answer.sort();
    (answer, looks_cut)
}

fn sure(confidence: &str) -> usize {
    ["\"possible\"", "\"likely\"", "\"certain\""]
        .iter()
        .position(|word| *word == confidence)
        .unwrap()
}

/// Holds if each re-formatting of the story gives its answer.
#[track_caller]
pub fn hold(story: &str) {
    /// Longer ones are traces.
    const MAX_STORY: usize = 16 * 1024;
    if story.len() > MAX_STORY || story.contains("kvm_exit") || story.contains('\x1b') {
        return;
    }
    let (expected, _) = answer(story.as_bytes());
    for (name, text) in all(story) {
        let (found, cut) = answer(&text);
        let same = found == expected;
        let less_sure = cut
            && found.iter().all(|incident| {
                let [outcome, cause, .., confidence] = incident;
                expected.iter().any(|known| {
                    let verdict = [outcome, cause] == [&known[0], &known[1]];
                    sure(confidence) < sure(&known[5]) || (verdict && confidence == &known[5])
                }) || sure(confidence) == 0
            });
        assert!(
            same || less_sure,
            "{name}: {found:#?}, expected {expected:#?} of:\n{}",
            String::from_utf8_lossy(&text)
        );
    }
}

fn lines(story: &str, each: impl Fn(usize, &str) -> String) -> Vec<u8> {
    let lines = story.lines().enumerate();
    lines
        .map(|(n, line)| each(n, line))
        .collect::<String>()
        .into_bytes()
}

/// Broken at a width, wherever that is.
fn hard(line: &str, width: usize, before: &str) -> String {
    let mut text = String::new();
    let chars: Vec<char> = line.chars().collect();
    for part in chars.chunks(width) {
        text.push_str(before);
        text.extend(part);
        text.push('\n');
    }
    if line.is_empty() { "\n".to_owned() } else { text }
}

/// Broken between words.
fn by_words(line: &str, width: usize, before: &str, end: &str) -> String {
    let mut text = before.to_owned();
    let mut column = before.len();
    for (n, word) in line.split(' ').enumerate() {
        if n > 0 && column + 1 + word.len() > width {
            text.push_str(end);
            text.push('\n');
            text.push_str(before);
            column = before.len();
        } else if n > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
    text
}

fn quoted_printable(line: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for byte in line.bytes() {
        let one = match byte {
            b'=' | 0x7f.. | ..0x20 => format!("={byte:02X}"),
            _ => char::from(byte).to_string(),
        };
        if column + one.len() > 75 {
            text.push_str("=\n");
            column = 0;
        }
        column += one.len();
        text.push_str(&one);
    }
    text.push('\n');
    text
}

fn html(line: &str) -> String {
    line.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

const TIME: &str = "2026-11-19T03:11:02.000000000Z";

/// The story in each of its clothes.
fn all(story: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for width in [72, 76, 80, 100] {
        all.push((
            format!("hard wrap at {width}"),
            lines(story, |_, line| hard(line, width, "")),
        ));
        all.push((
            format!("word wrap at {width}"),
            lines(story, |_, line| by_words(line, width, "", "")),
        ));
        all.push((
            format!("quoted, then broken at {width}"),
            lines(story, |_, line| hard(line, width - 2, "> ")),
        ));
        all.push((
            format!("quoted, broken between words at {width}"),
            lines(story, |_, line| by_words(line, width, "> > ", "")),
        ));
    }
    // RFC 3676: a line that begins with a blank gets one more.
    let stuffed = |line: &str| match line.starts_with([' ', '>']) {
        true => format!(" {line}"),
        false => line.to_owned(),
    };
    all.push((
        "format=flowed".to_owned(),
        lines(story, |_, line| by_words(stuffed(line).trim_end(), 72, "", " ")),
    ));
    all.push((
        "quoted-printable".to_owned(),
        lines(story, |_, line| quoted_printable(line)),
    ));
    let header = b"From: a@b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n";
    let mail = [&header[..], &lines(story, |_, line| quoted_printable(line))].concat();
    all.push(("a whole mail".to_owned(), mail));
    all.push((
        "br".to_owned(),
        lines(story, |_, line| format!("{}<br />", html(line))),
    ));
    all.push((
        "br and line ends".to_owned(),
        lines(story, |_, line| format!("{}<br>\n", html(line))),
    ));
    let post = lines(story, |_, line| format!("{}\n", html(line)));
    all.push((
        "pre".to_owned(),
        [
            b"<div class=\"post\"><pre><code>",
            post.as_slice(),
            b"</code></pre></div>",
        ]
        .concat(),
    ));
    all.push(("returns".to_owned(), lines(story, |_, line| format!("{line}\r"))));
    all.push(("CRLF".to_owned(), lines(story, |_, line| format!("{line}\r\n"))));
    let units = story.encode_utf16().flat_map(u16::to_le_bytes);
    all.push((
        "UTF-16".to_owned(),
        [0xff, 0xfe].into_iter().chain(units).collect(),
    ));
    all.push((
        "coloured".to_owned(),
        lines(story, |_, line| format!("\x1b[1;31m{line}\x1b[0m\n")),
    ));
    all.push((
        "Docker".to_owned(),
        lines(story, |_, line| {
            format!(
                "{{\"log\":{},\"stream\":\"stdout\",\"time\":\"{TIME}\"}}\n",
                json(&format!("{line}\n"))
            )
        }),
    ));
    all.push((
        "Docker, broken at 80".to_owned(),
        lines(story, |_, line| {
            let record = format!(
                "{{\"log\": {}, \"stream\": \"stderr\", \"time\": \"{TIME}\"}}",
                json(&format!("{line}\r\n"))
            );
            hard(&record, 80, "")
        }),
    ));
    all.push((
        "CRI".to_owned(),
        lines(story, |_, line| format!("{TIME} stdout F {line}\n")),
    ));
    all.push((
        "CRI, in parts".to_owned(),
        lines(story, |_, line| {
            let middle = (0..=line.len() / 2)
                .rev()
                .find(|at| line.is_char_boundary(*at))
                .unwrap();
            let (a, b) = line.split_at(middle);
            format!("{TIME} stdout P {a}\n{TIME} stdout F {b}\n")
        }),
    ));
    all.push((
        "a collector's JSON".to_owned(),
        lines(story, |_, line| {
            format!(
                "{{\"@timestamp\":\"{TIME}\",\"message\":{},\"input\":{{\"type\":\"log\"}}}}\n",
                json(line)
            )
        }),
    ));
    for (name, margin) in [("dots", ". "), ("colons", ": "), ("bars", "| "), ("tabs", "\t")] {
        all.push((
            format!("numbers with {name}"),
            lines(story, |n, line| format!("{:>4}{margin}{line}\n", n + 1)),
        ));
    }
    all.push((
        "grep".to_owned(),
        lines(story, |n, line| {
            format!("/var/log/console.log:{}:{line}\n", n + 1)
        }),
    ));
    all.push((
        "Markdown".to_owned(),
        [b"It died:\n\n```\n", story.as_bytes(), b"\n```\n"].concat(),
    ));
    all.push((
        "indented".to_owned(),
        lines(story, |_, line| format!("    {line}\n")),
    ));
    all.extend(dressed(story));
    all.push((
        "viewer's columns".to_owned(),
        lines(story, |_, line| columns(line)),
    ));
    all
}

/// Each line with what posts, tables and tools put around it.
fn dressed(story: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    // An object in an object, and the lines of an event, which no clock and no known word begins, are not taken out.
    if story.contains("{\"")
        || story.starts_with('{')
        || ["event '", "MESSAGE="].iter().any(|of| story.contains(of))
    {
        return all;
    }
    for (name, before, after) in [
        ("a list", "- ", ""),
        ("a list of YAML", "- '", "'"),
        ("inline code", "`", "`"),
        ("a table", "| 7 | ", " |"),
        ("an old mailer's quotes", "| ", ""),
        ("cat -A", "", "$"),
        ("cat -A with returns", "", "^M$"),
    ] {
        // A line with such marks of its own is another's.
        if story.contains(['`', '|', '\'', '$']) {
            continue;
        }
        all.push((
            name.to_owned(),
            lines(story, |_, line| format!("{before}{line}{after}\n")),
        ));
    }
    let values: Vec<String> = story.lines().map(json).collect();
    all.push((
        "a list of JSON".to_owned(),
        format!("[\n  {}\n]\n", values.join(",\n  ")).into_bytes(),
    ));
    all.push((
        "a collector with other keys".to_owned(),
        lines(story, |_, line| {
            format!(
                "{{\"version\":\"1.1\",\"level\":6,\"short_message\":{}}}\n",
                json(line)
            )
        }),
    ));
    all.push((
        "blanks of a browser".to_owned(),
        story.replace(' ', "\u{a0}").into_bytes(),
    ));
    all.push((
        "a mark of the byte order".to_owned(),
        format!("\u{feff}{story}").into_bytes(),
    ));
    for width in [76, 100] {
        all.push((
            format!("indented, broken at {width}"),
            lines(story, |_, line| by_words(line, width, "    ", "")),
        ));
    }
    all
}

/// A syslog line in the columns of a viewer; others as they are.
fn columns(line: &str) -> String {
    let parts = || {
        let (date, rest) = line.split_at_checked(15)?;
        let rest = rest.strip_prefix(' ')?;
        let (host, rest) = rest.split_once(' ')?;
        let (tag, message) = rest.split_once(": ")?;
        let dated = date.as_bytes()[3] == b' ' && date.as_bytes()[9] == b':';
        (dated && !tag.contains(' ')).then(|| format!("{date}\t{host}\t{tag}\t{message}\n"))
    };
    parts().unwrap_or_else(|| format!("{line}\n"))
}

#[test]
fn the_stories_of_the_real_traces() {
    for file in [
        "amd-linux-guest-panic/console.txt",
        "amd-linux-guest-panic/host.log",
        "amd-linux-guest-panic/qemu.log",
        "intel-linux-guest-flushes/console.txt",
    ] {
        let story = std::fs::read_to_string(crate::trace(file)).unwrap();
        hold(&story);
    }
}

#[test]
fn stories_of_several_senders() {
    for story in [
        "Oct 24 10:52:05 a-host-with-a-long-name kernel: [79566.550690] Memory failure: 0x8aa9a1: Sending SIGBUS to cloud-hyperviso:15894 due to hardware memory corruption\n\
         Oct 24 10:52:05 a-host-with-a-long-name kernel: [79566.550776] Memory failure: 0x8aa9a1: recovery action for dirty LRU page: Recovered\n\
         Oct 24 10:52:07 a-host-with-a-long-name microvm@vm1[15894]: [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134\n\
         Oct 24 10:52:07 a-host-with-a-long-name microvm@vm1[15894]: [  157.392912] mce: [Hardware Error]: RIP 10:<ffffffff81e8f6ff> {memcpy_erms+0x6/0x10}\n\
         Oct 24 10:52:07 a-host-with-a-long-name microvm@vm1[15894]: [  157.392919] mce: [Hardware Error]: TSC 60b92a54d0 ADDR 224ae5000 MISC 8c\n\
         Oct 24 10:52:07 a-host-with-a-long-name microvm@vm1[15894]: [  157.392924] mce: [Hardware Error]: Machine check: Data load in unrecoverable area of kernel\n\
         Oct 24 10:52:07 a-host-with-a-long-name microvm@vm1[15894]: [  157.392925] Kernel panic - not syncing: Fatal local machine check\n",
        "2026-11-20 10:00:00.000+0000: starting up libvirt version: 10.0.0, qemu version: 8.2.2, kernel: 6.8.0-31-generic, hostname: host1\n\
         LC_ALL=C \\\n/usr/bin/qemu-system-x86_64 \\\n-name guest=db-7,debug-threads=on \\\n-uuid 5e1f1e55-0000-4000-8000-00000000feed \\\n\
         2026-11-22T18:02:12.000000Z qemu-system-x86_64: warning: Guest MCE Memory Error at QEMU addr 0x7f0000001000 and GUEST addr 0x5000000 of type BUS_MCEERR_AO injected\n\
         2026-11-22 18:02:14.000+0000: shutting down, reason=crashed\n",
        "May 16 12:59:57 host1 kernel: Memory failure: 0x7e025e: Sending SIGBUS to qemu-system-x86:13404 due to hardware memory corruption\n\
         May 16 12:59:57 host1 kernel: Memory failure: 0x7e025e: recovery action for dirty LRU page: Recovered\n\
         May 16 12:59:57 host1 kernel: audit: type=1701 audit(1795362334.123:456): auid=4294967295 uid=107 gid=107 ses=4294967295 subj=system_u:system_r:svirt_t:s0:c276,c812 pid=13404 comm=\"CPU 0/KVM\" exe=\"/usr/bin/qemu-system-x86_64\" sig=7 res=1\n",
        "{\"timestamp\": {\"seconds\": 1795370532, \"microseconds\": 437000}, \"event\": \"MEMORY_FAILURE\", \"data\": {\"recipient\": \"guest\", \"action\": \"inject\", \"flags\": {\"action-required\": true, \"recursive\": false}}}\n\
         {\"timestamp\": {\"seconds\": 1795370534, \"microseconds\": 506000}, \"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\"}}\n",
    ] {
        hold(story);
    }
}
