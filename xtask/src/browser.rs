//! Debian's Chromium, headless: what a page is when it is looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use xtask_support::command;
use xtask_support::paths::program;

pub struct Browser {
    program: PathBuf,
    profile: TempDir,
}

/// How a page is looked at.
#[derive(Clone, Copy)]
pub struct View {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Browser {
    /// `None` where the machine has none.
    pub fn find() -> Result<Option<Self>> {
        let Some(program) = ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find_map(program)
        else {
            return Ok(None);
        };
        Ok(Some(Self {
            program,
            profile: tempfile::tempdir()?,
        }))
    }

    fn command(&self) -> Command {
        let mut command = command::clean(&self.program);
        command.args([
            "--headless",
            // A sandbox needs namespaces that containers and root do not have; the pages are our own.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ]);
        command.arg(format!("--user-data-dir={}", self.profile.path().display()));
        command
    }

    fn viewing(&self, view: View) -> Command {
        let mut command = self.command();
        command.arg(format!("--window-size={},{}", view.width, view.height));
        if view.dark {
            command.arg("--blink-settings=preferredColorScheme=0");
        }
        command
    }

    /// Opens `page` in a frame of `view` and returns what `script`, a JavaScript expression over its `document`, gives.
    /// Fails on anything that the page writes to the console, and on any request that it makes.
    pub fn ask(&self, page: &Path, view: View, script: &str) -> Result<Value> {
        let folder = tempfile::tempdir()?;
        let asking = folder.path().join("asking.html");
        let requests = folder.path().join("requests.json");
        let (width, height) = (view.width, view.height);
        fs::write(
            &asking,
            format!(
                "<!doctype html><pre id=answer></pre><iframe id=page width={width} height={height} src='{}'></iframe>
                 <script>page.onload = () => {{
                    const document = page.contentDocument;
                    answer.textContent = '@' + btoa(unescape(encodeURIComponent(JSON.stringify({script})))) + '@';
                 }}</script>",
                url(page)?
            ),
        )?;
        let mut command = self.viewing(view);
        command
            .args([
                "--dump-dom",
                "--enable-logging=stderr",
                "--allow-file-access-from-files",
            ])
            .arg(format!("--log-net-log={}", requests.display()))
            .arg(url(&asking)?);
        let output = command.output().context("cannot start Chromium")?;
        let log = String::from_utf8_lossy(&output.stderr);
        if let Some(complaint) = log.lines().find(|line| line.contains(":CONSOLE")) {
            bail!("the page complains: {complaint}");
        }
        no_requests(&fs::read_to_string(&requests).context("Chromium wrote no list of its requests")?)?;
        let dom = String::from_utf8_lossy(&output.stdout);
        let answer = dom
            .split('@')
            .nth(1)
            .with_context(|| format!("Chromium gave no answer: {log}"))?;
        use base64::Engine as _;
        let answer = base64::engine::general_purpose::STANDARD.decode(answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// A picture of the page.
    pub fn screenshot(&self, page: &Path, view: View, to: &Path) -> Result<()> {
        let mut command = self.viewing(view);
        command
            .arg(format!("--screenshot={}", to.display()))
            .arg(url(page)?);
        command::output(&mut command)?;
        ensure!(to.is_file(), "Chromium made no {}", to.display());
        Ok(())
    }

    /// The page on paper.
    pub fn print(&self, page: &Path, to: &Path) -> Result<()> {
        let mut command = self.command();
        command
            .arg("--no-pdf-header-footer")
            .arg(format!("--print-to-pdf={}", to.display()))
            .arg(url(page)?);
        command::output(&mut command)?;
        ensure!(to.is_file(), "Chromium made no {}", to.display());
        Ok(())
    }
}

fn url(file: &Path) -> Result<String> {
    Ok(format!("file://{}", std::path::absolute(file)?.display()))
}

/// Chromium's own list of what went to the network. What it asks its maker's servers for has no page as its origin.
fn no_requests(list: &str) -> Result<()> {
    let by_a_page = |line: &&str| {
        line.contains("\"initiator\":\"")
            && !line.contains("\"initiator\":\"not an origin\"")
            && !line.contains("\"url\":\"file:")
    };
    match list.lines().find(by_a_page) {
        Some(request) => bail!("the page makes a request: {request}"),
        None => Ok(()),
    }
}
