//! The table at the matrix's end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::cell::Cell;
use super::check_output::Program;

/// One block for the scenarios, one for the bindings, one for the programs' sizes.
pub fn text(cells: &[Cell], minutes: f64) -> String {
    let mut text =
        "EMULATED: AMD's processor in QEMU (guests with Linux 6.12) and in Bochs (storms), Intel's in \
                    Bochs (storms).\n\n"
            .to_owned();
    let _ = writeln!(
        text,
        "{:<7}{:<27}{:<7}{:<22}{:<7}{:<32}{:>11}  right",
        "kernel", "release", "cpu", "scenario", "in", "verdict", "seen/true"
    );
    for cell in cells {
        for scenario in &cell.scenarios {
            let number = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
            let exits = format!("{}/{}", number(scenario.exits_seen), number(scenario.exits_true));
            let right = match &scenario.wrong {
                None => "yes".to_owned(),
                Some(wrong) => format!("NO: {wrong}"),
            };
            let _ = writeln!(
                text,
                "{:<7}{:<27}{:<7}{:<22}{:<7}{:<32}{exits:>11}  {right}",
                cell.kernel, cell.release, cell.cpu, scenario.name, scenario.emulator, scenario.verdict
            );
        }
    }
    let head: Vec<String> = cells
        .iter()
        .map(|cell| format!("{} {}", cell.kernel, cell.cpu))
        .collect();
    text.push_str("\nbinding of each probe\n");
    by_cell(&mut text, &head, &bindings(cells));
    text.push_str("\ninstructions of each program as the kernel runs it / gone through by its verifier (from 5.16 on)\n");
    by_cell(&mut text, &head, &sizes(cells));
    let _ = writeln!(text, "\n{minutes:.1} minutes after downloads");
    text
}

type Rows = Vec<(String, BTreeMap<usize, String>)>;

fn put(rows: &mut Rows, name: &str, cell: usize, what: String) {
    match rows.iter_mut().find(|(known, _)| known == name) {
        Some((_, row)) => {
            row.insert(cell, what);
        }
        None => rows.push((name.to_owned(), BTreeMap::from([(cell, what)]))),
    }
}

fn bindings(cells: &[Cell]) -> Rows {
    let mut rows = Rows::new();
    for (n, cell) in cells.iter().enumerate() {
        for probe in &cell.probes {
            put(&mut rows, &probe.name, n, probe.way());
        }
    }
    rows
}

fn sizes(cells: &[Cell]) -> Rows {
    let mut rows = Rows::new();
    for (n, cell) in cells.iter().enumerate() {
        for program in cell.probes.iter().flat_map(|probe| &probe.programs) {
            put(&mut rows, &program.name, n, size(program));
        }
    }
    rows
}

fn size(program: &Program) -> String {
    let number = |n: Option<u32>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    format!("{}/{}", number(program.instructions), number(program.verified))
}

fn by_cell(text: &mut String, head: &[String], rows: &Rows) {
    let _ = write!(text, "{:<22}", "");
    for name in head {
        let _ = write!(text, "{name:>15}");
    }
    text.push('\n');
    for (name, row) in rows {
        let _ = write!(text, "{name:<22}");
        for n in 0..head.len() {
            let what = row.get(&n).map_or("-", String::as_str);
            let _ = write!(text, "{what:>15}");
        }
        text.push('\n');
    }
}
