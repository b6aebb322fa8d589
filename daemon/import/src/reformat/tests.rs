//! The layer as a whole: what comes out of a text that was re-formatted.

use super::*;

fn read(text: &[u8]) -> (Vec<(u64, u64, String)>, Vec<LooksCut>) {
    let mut reader = Reader::new(text);
    let mut lines = Vec::new();
    while reader.advance().unwrap() {
        let line = String::from_utf8_lossy(reader.line()).into_owned();
        lines.push((reader.number(), reader.last_number(), line));
    }
    (lines, reader.notices().0.to_vec())
}

fn words(text: &str) -> Vec<String> {
    let (lines, cut) = read(text.as_bytes());
    assert_eq!(cut, []);
    lines.into_iter().map(|(.., line)| line).collect()
}

const LOG: [&str; 5] = [
    "Oct 24 10:52:05 host1 kernel: [79566.550690] Memory failure: 0x8aa9a1: Sending SIGBUS to cloud-hyperviso:15894 due to hardware memory corruption",
    "Oct 24 10:52:05 host1 kernel: [79566.550776] Memory failure: 0x8aa9a1: recovery action for dirty LRU page: Recovered",
    "Oct 24 10:52:07 host1 microvm@vm1[15894]: [  157.392905] mce: [Hardware Error]: CPU 0: Machine Check Exception: 5 Bank 9: bd80000000000134",
    "Oct 24 10:52:07 host1 microvm@vm1[15894]: [  157.392919] mce: [Hardware Error]: TSC 60b92a54d0 ADDR 224ae5000 MISC 8c",
    "Oct 24 10:52:07 host1 microvm@vm1[15894]: [  157.392925] Kernel panic - not syncing: Fatal local machine check",
];

fn hard(width: usize) -> String {
    let mut text = String::new();
    for line in LOG {
        for part in line.as_bytes().chunks(width) {
            text.push_str(std::str::from_utf8(part).unwrap());
            text.push('\n');
        }
    }
    text
}

fn by_words(width: usize, end: &str) -> String {
    let mut text = String::new();
    for line in LOG {
        let mut column = 0;
        for word in line.split(' ') {
            if column > 0 && column + 1 + word.len() > width {
                text.push_str(end);
                text.push('\n');
                column = 0;
            } else if column > 0 {
                text.push(' ');
                column += 1;
            }
            text.push_str(word);
            column += word.len();
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_plain_log_stays_as_it_is() {
    let text = LOG.join("\n");
    let (lines, _) = read(text.as_bytes());
    for ((first, last, line), (number, expected)) in lines.iter().zip((1..).zip(LOG)) {
        assert_eq!((*first, *last, line.as_str()), (number, number, expected));
    }
    assert_eq!(lines.len(), LOG.len());
}

#[test]
fn wrapped_logs_are_whole_again() {
    for width in [72, 76, 80, 100] {
        assert_eq!(words(&hard(width)), LOG, "hard at {width}");
        assert_eq!(words(&by_words(width, "")), LOG, "words at {width}");
        assert_eq!(words(&by_words(width, " ")), LOG, "flowed at {width}");
        let quoted: String = by_words(width, "")
            .lines()
            .map(|line| format!("> > {line}\n"))
            .collect();
        assert_eq!(words(&quoted), LOG, "quoted at {width}");
    }
}

#[test]
fn a_joined_line_has_the_numbers_of_its_lines() {
    let (lines, _) = read(by_words(80, "").as_bytes());
    assert_eq!((lines[0].0, lines[0].1), (1, 2));
    assert_eq!((lines[1].0, lines[1].1), (3, 4));
}

#[test]
fn posts_and_mails_and_pastebins() {
    let post: String = LOG.join("<br />");
    assert_eq!(words(&format!("<p><code>{post}</code></p>")), LOG);
    let numbered: String = LOG
        .iter()
        .zip(1..)
        .map(|(line, n)| format!("{n:>3}. {line}\n"))
        .collect();
    assert_eq!(words(&numbered), LOG);
    let mail: String = LOG
        .iter()
        .map(|line| {
            let encoded = line.replace('=', "=3D");
            let (a, b) = encoded.split_at(75);
            format!("{a}=\n{b}\n")
        })
        .collect();
    assert_eq!(words(&mail), LOG);
    assert_eq!(words(&LOG.join("\r")), LOG);
}

#[test]
fn containers_records() {
    let docker: String = LOG
        .iter()
        .map(|line| {
            format!(
                "{{\"log\":{:?},\"stream\":\"stdout\",\"time\":\"2026-11-19T03:11:02.5Z\"}}\n",
                format!("{line}\n")
            )
        })
        .collect();
    assert_eq!(words(&docker), LOG);
    // Broken by a mailer, too.
    let broken: Vec<&str> = docker
        .lines()
        .flat_map(|line| {
            let (a, b) = line.split_at(76);
            [a, b]
        })
        .collect();
    assert_eq!(words(&broken.join("\n")), LOG);
    let cri: String = LOG
        .iter()
        .map(|line| {
            let (a, b) = line.split_at(60);
            format!("2026-11-19T03:11:02.5Z stdout P {a}\n2026-11-19T03:11:02.5Z stdout F {b}\n")
        })
        .collect();
    assert_eq!(words(&cri), LOG);
}

#[test]
fn what_does_not_become_whole_stays_and_is_named() {
    let text = format!("{}\n{}\nprose\n", &LOG[0][..100], LOG[4]);
    let (lines, cut) = read(text.as_bytes());
    assert_eq!(lines.len(), 3);
    assert_eq!(cut.len(), 1);
    assert_eq!((cut[0].line, cut[0].text.as_str()), (1, &LOG[0][..100]));
    let text =
        "qemu-kvm: Guest MCE Memory Error at QEMU addr\n0x7f0000001000 and GUEST addr\nand then nothing\n";
    let (lines, cut) = read(text.as_bytes());
    let lines: Vec<&str> = lines.iter().map(|(.., line)| line.as_str()).collect();
    assert_eq!(lines, text.lines().collect::<Vec<_>>());
    assert_eq!(cut.len(), 1);
}

#[test]
fn hostile_texts_end() {
    let mut text = b"{\"a\": [".repeat(3000);
    text.extend(b"\n{\n".repeat(5000));
    text.extend(b"ANOM_ABEND pid= comm= exe= ".repeat(2000));
    text.extend(b"\n");
    text.extend(b"Memory failure: 0x1: Sending SIGBUS to \n".repeat(2000));
    text.extend(b"=\n".repeat(1000));
    text.extend(b"2026-11-19T03:11:02.5Z stdout P x\n".repeat(1000));
    let (lines, cut) = read(&text);
    assert!(lines.len() > 2000);
    assert_eq!(cut.len(), MAX_NOTICES);
}
