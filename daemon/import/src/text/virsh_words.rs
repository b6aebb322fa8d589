//! `virsh event` in other languages: the words of libvirt's own translations (po/{cs,de,fr,ja,ko,ru,uk,zh_CN}.po, 9.0).

/// What stands before and behind the domain's name.
const FRAMES: [(&str, &str); 4] = [
    (
        "\u{30c9}\u{30e1}\u{30a4}\u{30f3} '",
        "' \u{306e}\u{30a4}\u{30d9}\u{30f3}\u{30c8} 'lifecycle': ",
    ),
    ("\u{57df} '", "' \u{7684}\u{4e8b}\u{4ef6} 'lifecycle'\u{ff1a}"),
    (
        "\u{b3c4}\u{ba54}\u{c778} '",
        "'\u{c758} \u{c774}\u{bca4}\u{d2b8} '\u{c218}\u{ba85} \u{c8fc}\u{ae30}': ",
    ),
    (
        "\u{43f}\u{43e}\u{434}\u{456}\u{44f} \u{ab}lifecycle\u{bb} \u{434}\u{43b}\u{44f} \u{434}\u{43e}\u{43c}\u{435}\u{43d}\u{443} \u{ab}",
        "\u{bb}: ",
    ),
];

/// Words of an event; a longer one stands before what begins it.
const EVENTS: [(&str, &str); 21] = [
    (
        "\u{410}\u{432}\u{430}\u{440}\u{438}\u{439}\u{43d}\u{43e} \u{437}\u{430}\u{432}\u{435}\u{440}\u{448}\u{438}\u{43b} \u{440}\u{430}\u{431}\u{43e}\u{442}\u{443}",
        "Crashed",
    ),
    ("Zhavarovalo", "Crashed"),
    (
        "\u{41e}\u{441}\u{442}\u{430}\u{43d}\u{43e}\u{432}\u{43b}\u{435}\u{43d}",
        "Stopped",
    ),
    ("Zastaveno", "Stopped"),
    (
        "\u{417}\u{443}\u{43f}\u{438}\u{43d}\u{435}\u{43d}\u{43e}",
        "Stopped",
    ),
    ("Spu\u{161}t\u{11b}no", "Started"),
    (
        "\u{30af}\u{30e9}\u{30c3}\u{30b7}\u{30e5}\u{3057}\u{305f}",
        "Crashed",
    ),
    ("\u{417}\u{430}\u{43f}\u{443}\u{449}\u{435}\u{43d}", "Started"),
    ("Crashed", "Crashed"),
    ("Stopped", "Stopped"),
    ("Started", "Started"),
    ("\u{410}\u{432}\u{430}\u{440}\u{456}\u{44f}", "Crashed"),
    ("\u{41f}\u{43e}\u{447}\u{430}\u{442}\u{43e}", "Started"),
    ("\u{958b}\u{59cb}\u{6e08}\u{307f}", "Started"),
    ("\u{505c}\u{6b62}\u{4e2d}", "Stopped"),
    ("\u{5df2}\u{5d29}\u{6e83}", "Crashed"),
    ("\u{5df2}\u{505c}\u{6b62}", "Stopped"),
    ("\u{c815}\u{c9c0}\u{b428}", "Stopped"),
    ("\u{c2dc}\u{c791}\u{b428}", "Started"),
    ("\u{542f}\u{52a8}", "Started"),
    ("\u{cda9}\u{b3cc}", "Crashed"),
];

const DETAILS: [(&str, &str); 49] = [
    ("D\u{e9}truit", "Destroyed"),
    ("Fehlgeschlagen", "Failed"),
    ("Nezda\u{159}ilo se", "Failed"),
    ("P\u{159}est\u{11b}hov\u{e1}no", "Migrated"),
    ("Syst\u{e9}m zaveden", "Booted"),
    ("Ulo\u{17e}eno", "Saved"),
    ("Vypnout", "Shutdown"),
    ("Zhavarovalo", "Crashed"),
    ("Zlikvidov\u{e1}no", "Destroyed"),
    ("Zpanika\u{159}ilo", "Panicked"),
    (
        "\u{410}\u{432}\u{430}\u{440}\u{438}\u{439}\u{43d}\u{43e} \u{437}\u{430}\u{432}\u{435}\u{440}\u{448}\u{438}\u{43b} \u{440}\u{430}\u{431}\u{43e}\u{442}\u{443}",
        "Crashed",
    ),
    ("\u{410}\u{432}\u{430}\u{440}\u{456}\u{44f}", "Crashed"),
    (
        "\u{412}\u{438}\u{43c}\u{438}\u{43a}\u{430}\u{43d}\u{43d}\u{44f}",
        "Shutdown",
    ),
    (
        "\u{412}\u{44b}\u{43a}\u{43b}\u{44e}\u{447}\u{435}\u{43d}",
        "Shutdown",
    ),
    (
        "\u{417}\u{430}\u{432}\u{430}\u{43d}\u{442}\u{430}\u{436}\u{435}\u{43d}\u{43e}",
        "Booted",
    ),
    (
        "\u{417}\u{430}\u{433}\u{440}\u{443}\u{436}\u{435}\u{43d}",
        "Booted",
    ),
    (
        "\u{417}\u{431}\u{435}\u{440}\u{435}\u{436}\u{435}\u{43d}\u{43e}",
        "Saved",
    ),
    ("\u{417}\u{43d}\u{438}\u{449}\u{435}\u{43d}\u{43e}", "Destroyed"),
    ("\u{41f}\u{430}\u{43d}\u{438}\u{43a}\u{430}", "Panicked"),
    ("\u{41f}\u{430}\u{43d}\u{456}\u{43a}\u{430}", "Panicked"),
    (
        "\u{41f}\u{435}\u{440}\u{435}\u{43d}\u{435}\u{441}\u{435}\u{43d}\u{43e}",
        "Migrated",
    ),
    (
        "\u{41f}\u{435}\u{440}\u{435}\u{43d}\u{435}\u{441}\u{451}\u{43d}",
        "Migrated",
    ),
    ("\u{41f}\u{43e}\u{43c}\u{438}\u{43b}\u{43a}\u{430}", "Failed"),
    ("\u{421}\u{431}\u{43e}\u{439}", "Failed"),
    (
        "\u{421}\u{43e}\u{445}\u{440}\u{430}\u{43d}\u{451}\u{43d}",
        "Saved",
    ),
    (
        "\u{423}\u{43d}\u{438}\u{447}\u{442}\u{43e}\u{436}\u{435}\u{43d}",
        "Destroyed",
    ),
    (
        "\u{30af}\u{30e9}\u{30c3}\u{30b7}\u{30e5}\u{3057}\u{305f}",
        "Crashed",
    ),
    (
        "\u{30b7}\u{30e3}\u{30c3}\u{30c8}\u{30c0}\u{30a6}\u{30f3}",
        "Shutdown",
    ),
    ("\u{30d1}\u{30cb}\u{30c3}\u{30af}", "Panicked"),
    (
        "\u{30de}\u{30a4}\u{30b0}\u{30ec}\u{30fc}\u{30b7}\u{30e7}\u{30f3}\u{6e08}\u{307f}",
        "Migrated",
    ),
    ("\u{4fdd}\u{5b58}\u{6e08}\u{307f}", "Saved"),
    ("\u{5173}\u{673a}", "Shutdown"),
    ("\u{5931}\u{6557}", "Failed"),
    ("\u{5df2}\u{4fdd}\u{5b58}", "Saved"),
    ("\u{5df2}\u{5931}\u{8d25}", "Failed"),
    ("\u{5df2}\u{5d29}\u{6e83}", "Crashed"),
    ("\u{5df2}\u{5f15}\u{5bfc}", "Booted"),
    ("\u{5df2}\u{8fc1}\u{79fb}", "Migrated"),
    ("\u{5df2}\u{9500}\u{6bc1}", "Destroyed"),
    ("\u{5f37}\u{5236}\u{505c}\u{6b62}", "Destroyed"),
    ("\u{8d77}\u{52d5}\u{6e08}\u{307f}", "Booted"),
    ("\u{c2dc}\u{c791}\u{b428}", "Booted"),
    ("\u{c2e4}\u{d328}\u{d568}", "Failed"),
    ("\u{c774}\u{c804}\u{b428}", "Migrated"),
    ("\u{c800}\u{c7a5}\u{b428}", "Saved"),
    ("\u{c885}\u{b8cc}", "Shutdown"),
    ("\u{cda9}\u{b3cc}", "Crashed"),
    ("\u{d30c}\u{ae30}\u{b428}", "Destroyed"),
    ("\u{d328}\u{b2c9}\u{b428}", "Panicked"),
];

/// The domain of a line, and its event in English.
pub fn lifecycle(line: &str) -> Option<(&str, String)> {
    FRAMES.iter().find_map(|(before, behind)| {
        let at = line.find(before)?;
        let (domain, detail) = line[at + before.len()..].split_once(behind)?;
        Some((domain, english(detail)))
    })
}

/// `EVENT DETAIL` in English.
pub fn english(text: &str) -> String {
    let text = text.trim();
    let event = EVENTS
        .iter()
        .find_map(|(word, event)| Some((*event, text.strip_prefix(word)?)));
    let Some((event, detail)) = event else {
        return text.to_owned();
    };
    let detail = detail.trim();
    let known = DETAILS.iter().find(|(word, _)| *word == detail);
    format!("{event} {}", known.map_or(detail, |(_, detail)| detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_other_languages() {
        for (line, event) in [
            (
                "\u{30c9}\u{30e1}\u{30a4}\u{30f3} 'db-7' \u{306e}\u{30a4}\u{30d9}\u{30f3}\u{30c8} 'lifecycle': \u{30af}\u{30e9}\u{30c3}\u{30b7}\u{30e5}\u{3057}\u{305f} \u{30d1}\u{30cb}\u{30c3}\u{30af}",
                "Crashed Panicked",
            ),
            (
                "\u{57df} 'db-7' \u{7684}\u{4e8b}\u{4ef6} 'lifecycle'\u{ff1a}\u{5df2}\u{505c}\u{6b62} \u{5df2}\u{5931}\u{8d25}",
                "Stopped Failed",
            ),
            (
                "\u{b3c4}\u{ba54}\u{c778} 'db-7'\u{c758} \u{c774}\u{bca4}\u{d2b8} '\u{c218}\u{ba85} \u{c8fc}\u{ae30}': \u{cda9}\u{b3cc} \u{d328}\u{b2c9}\u{b428}",
                "Crashed Panicked",
            ),
            (
                "\u{43f}\u{43e}\u{434}\u{456}\u{44f} \u{ab}lifecycle\u{bb} \u{434}\u{43b}\u{44f} \u{434}\u{43e}\u{43c}\u{435}\u{43d}\u{443} \u{ab}db-7\u{bb}: \u{417}\u{443}\u{43f}\u{438}\u{43d}\u{435}\u{43d}\u{43e} \u{41f}\u{435}\u{440}\u{435}\u{43d}\u{435}\u{441}\u{435}\u{43d}\u{43e}",
                "Stopped Migrated",
            ),
        ] {
            assert_eq!(lifecycle(line), Some(("db-7", event.to_owned())), "{line}");
        }
        assert_eq!(english("Crashed Panicked"), "Crashed Panicked");
        assert_eq!(english("Stopped Fehlgeschlagen"), "Stopped Failed");
        assert_eq!(
            lifecycle("event 'lifecycle' for domain 'db-7': Crashed Panicked"),
            None
        );
    }
}
