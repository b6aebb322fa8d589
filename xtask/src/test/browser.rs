//! The report's page in a real browser: on a phone, light and dark, on paper; with no exit, one, 64 and a million.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::browser::{Browser, View};
use crate::tally::Tally;
use xtask_support::command;
use xtask_support::paths::Paths;

const NAME: &str = "browser";
/// Of a phone, CSS pixels.
const PHONE: View = View {
    width: 390,
    height: 844,
    dark: false,
};

/// Script that reads a page.
const SCRIPT: &str = "{
    points: [...document.querySelectorAll('circle')].map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')]),
    width: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor,
    text: document.body.innerText,
    scripts: document.scripts.length,
    marks: [...document.querySelectorAll('svg.story g')].map(mark => ({
        left: mark.getBoundingClientRect().left,
        right: mark.getBoundingClientRect().right,
        words: mark.querySelector('title').textContent,
        end: mark.classList.contains('end'),
    })),
    listed: document.querySelectorAll('.words li').length,
}";
/// Recordings, how many incidents each has, and how many of them have an end.
const STORIES: [(&str, usize, usize); 5] = [
    ("panic-amd-6.12", 1, 1),
    ("survive-amd-6.12", 1, 0),
    ("storm-intel-6.12", 1, 1),
    ("shared-memory-amd-6.12", 2, 1),
    ("machine-check-amd-6.12", 1, 1),
];

pub fn run(paths: &Paths, daemon: &Path, tally: &mut Tally) {
    let browser = match Browser::find() {
        Ok(Some(browser)) => browser,
        Ok(None) => return tally.skip(NAME, "no Chromium on this machine: apt-get install chromium"),
        Err(error) => return tally.check(NAME, "starts", Err(error)),
    };
    let pages = match Pages::new(paths, daemon) {
        Ok(pages) => pages,
        Err(error) => return tally.check(NAME, "pages", Err(error)),
    };
    let looked = |recording: &str| pages.look(&browser, recording, PHONE);
    let mut check = |what: &str, outcome: Result<()>| tally.check(NAME, what, outcome);
    check(
        "untouched_page",
        looked("untouched").and_then(|seen| shows(&seen, 0, "did not touch the page")),
    );
    check(
        "one_exit",
        looked("panic-amd-6.12").and_then(|seen| shows(&seen, 0, "OVERFLOW")),
    );
    check(
        "a_clflush_walk_is_a_diagonal",
        looked("storm-intel-6.12").and_then(|seen| diagonal(&seen)),
    );
    check(
        "a_million_exits",
        looked("spin-intel-6.12").and_then(|seen| shows(&seen, 257, "1000000 exits")),
    );
    for (recording, incidents, ends) in STORIES {
        check(
            &format!("a_picture_of_the_story: {recording}"),
            looked(recording).and_then(|seen| story(&seen, incidents, ends)),
        );
    }
    check("a_request_would_be_noticed", a_request_would_be_noticed(&browser));
    check("dark_and_light", dark_and_light(&pages, &browser));
    check("on_paper", on_paper(&pages, &browser));
}

/// Pages made from recordings of the lab.
struct Pages<'a> {
    recordings: PathBuf,
    daemon: &'a Path,
    folder: TempDir,
}

impl<'a> Pages<'a> {
    fn new(paths: &Paths, daemon: &'a Path) -> Result<Self> {
        let pages = Self {
            recordings: paths.root.join("daemon/tests/recordings"),
            daemon,
            folder: tempfile::tempdir()?,
        };
        // The recording of a guest that dies, cut off before anything has touched the page.
        let whole = fs::read_to_string(pages.recordings.join("panic-amd-6.12.ptrace"))?;
        let before = |line: &&str| !line.contains("\"event\":\"poison_exit\"");
        let untouched: Vec<&str> = whole.lines().take_while(before).collect();
        fs::write(
            pages.folder.path().join("untouched.ptrace"),
            untouched.join("\n") + "\n",
        )?;
        Ok(pages)
    }

    fn page(&self, recording: &str) -> Result<PathBuf> {
        let page = self.folder.path().join(format!("{recording}.html"));
        let file = format!("{recording}.ptrace");
        let file = [self.folder.path(), &self.recordings]
            .map(|folder| folder.join(&file))
            .into_iter()
            .find(|file| file.is_file())
            .with_context(|| format!("no {file} among the recordings"))?;
        let mut explain = command::clean(self.daemon);
        explain.args(["explain", "--allow-truncated", "--format", "html", "--output"]);
        command::output(explain.arg(&page).arg("--from").arg(file))?;
        Ok(page)
    }

    fn look(&self, browser: &Browser, recording: &str, view: View) -> Result<Value> {
        let seen = browser.ask(&self.page(recording)?, view, SCRIPT)?;
        ensure!(seen["scripts"] == 0, "the page has a script");
        let width = seen["width"].as_u64().context("the page has no width")?;
        ensure!(
            width <= u64::from(view.width),
            "the page is {width} pixels wide, the screen {}",
            view.width
        );
        Ok(seen)
    }
}

fn points(seen: &Value) -> Result<Vec<(f64, f64)>> {
    let points = seen["points"].as_array().context("no list of points")?;
    points
        .iter()
        .map(|point| Some((point[0].as_f64()?, point[1].as_f64()?)))
        .collect::<Option<_>>()
        .context("a point without a place")
}

fn shows(seen: &Value, at_least: usize, words: &str) -> Result<()> {
    let found = points(seen)?.len();
    ensure!(
        found >= at_least && (at_least > 0 || found == 0),
        "{found} points are plotted"
    );
    let text = seen["text"].as_str().unwrap_or_default();
    ensure!(text.contains(words), "the page does not show {words:?}");
    Ok(())
}

/// Each incident has a picture on the screen, each mark its words, and the end of each that has one is marked.
fn story(seen: &Value, incidents: usize, ends: usize) -> Result<()> {
    let marks = seen["marks"].as_array().context("no list of marks")?;
    ensure!(marks.len() >= 2 * incidents, "{} marks", marks.len());
    ensure!(
        seen["listed"] == marks.len(),
        "{} marks, and other words",
        marks.len()
    );
    for mark in marks {
        let side = |name: &str| mark[name].as_f64().unwrap_or(f64::NAN);
        ensure!(
            side("left") >= 0.0 && side("right") <= f64::from(PHONE.width),
            "a mark is off the screen: {mark}"
        );
        ensure!(
            mark["words"].as_str().is_some_and(|words| words.len() > 10),
            "{mark}"
        );
    }
    let marked = marks.iter().filter(|mark| mark["end"] == true).count();
    ensure!(marked == ends, "{marked} ends are marked");
    Ok(())
}

fn diagonal(seen: &Value) -> Result<()> {
    shows(seen, 64, "line_walk")?;
    let points = points(seen)?;
    ensure!(points.len() == 64, "{} points for 64 exits", points.len());
    ensure!(
        points
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1),
        "the points are no diagonal: {points:?}"
    );
    Ok(())
}

fn a_request_would_be_noticed(browser: &Browser) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let page = folder.path().join("page.html");
    fs::write(&page, "<img src='http://127.0.0.1:8099/image.png'>")?;
    match browser.ask(&page, PHONE, "null") {
        Err(error) if format!("{error:#}").contains("127.0.0.1:8099") => Ok(()),
        other => bail!("a page that loads an image gave {other:?}"),
    }
}

fn dark_and_light(pages: &Pages<'_>, browser: &Browser) -> Result<()> {
    let background = |dark| -> Result<String> {
        let seen = pages.look(browser, "panic-amd-6.12", View { dark, ..PHONE })?;
        Ok(seen["background"].as_str().unwrap_or_default().to_owned())
    };
    let (light, dark) = (background(false)?, background(true)?);
    ensure!(
        light == "rgb(255, 255, 255)" && dark == "rgb(20, 23, 26)",
        "the background is {light} in the light and {dark} in the dark"
    );
    Ok(())
}

fn on_paper(pages: &Pages<'_>, browser: &Browser) -> Result<()> {
    let paper = pages.folder.path().join("report.pdf");
    browser.print(&pages.page("storm-intel-6.12")?, &paper)?;
    let bytes = fs::read(&paper)?;
    let sheets = bytes
        .windows(11)
        .filter(|window| window == b"/Type /Page")
        .count();
    // The tree of pages has a type of its own that begins the same.
    ensure!(
        (2..=7).contains(&sheets),
        "the storm's report takes {sheets} sheets of paper"
    );
    Ok(())
}
