// Drives VS Code in a browser as a person would: opens a file, types, takes the ghost text with Tab, saves.
//
//   node vscode.mjs '{"url": …, "chromium": …, "profile": …, "file": …, "line": …, "column": …, "typing": […],
//                     "patience": …, "screenshot": …}'
//
// Types the pieces of `typing` one after another until ghost text appears within `patience` milliseconds of one.
// Prints {"typed": what was typed, "ghost": the ghost text's first line, "status": […]}: what the status bar said
// before, after a click on it, and after another. `line` and `column` count from 1. Pictures go to `screenshot`, if
// given, and to `profile` when something fails.

import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(new URL("../../editor-plugins/vscode/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const job = JSON.parse(process.argv[2]);
const started = performance.now();
const log = (text) => console.error(`${((performance.now() - started) / 1000).toFixed(1)} s: ${text}`);

const browser = await chromium.launchPersistentContext(join(job.profile, "chromium"), {
  executablePath: job.chromium,
  viewport: { width: 1100, height: 650 },
  args: [
    "--no-sandbox", // tests run as root in containers, and the only page is our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(60_000);

try {
  const result = await acceptSuggestion();
  console.log(JSON.stringify(result));
} catch (error) {
  await page.screenshot({ path: join(job.profile, "failure.png") });
  throw error;
} finally {
  await browser.close();
}

async function acceptSuggestion() {
  await page.goto(job.url);
  const status = page.locator('[id$="codelm.status"] [aria-label^="codelm"]');
  const statusIs = (state) => page.locator(`[id$="codelm.status"] [aria-label^="codelm ${state}"]`).waitFor();
  await statusIs("ready");
  const said = [await status.getAttribute("aria-label")];
  log("the extension has found its server");

  await page.keyboard.press("Control+B"); // hides the side bar
  await quickOpen(job.file);
  await page.locator(".monaco-editor .view-line").first().waitFor();
  await quickOpen(`:${job.line}:${job.column}`);
  await page.locator(".monaco-editor.focused").waitFor();
  log("the file is open");

  const ghost = page.locator(".ghost-text-decoration");
  let typed = "";
  for (const piece of job.typing) {
    await page.keyboard.type(piece, { delay: 40 });
    typed += piece;
    if (await appears(ghost, job.patience)) break;
    log(`no suggestion after ${JSON.stringify(typed)}`);
  }
  if (!(await ghost.count())) throw new Error(`no ghost text after typing ${JSON.stringify(typed)}`);
  const parts = await ghost.allInnerTexts(); // long texts come in several
  const text = parts.join("").replaceAll("\u00a0", " ");
  log(`ghost text ${JSON.stringify(text)}`);
  if (job.screenshot) await page.screenshot({ path: job.screenshot });

  await page.keyboard.press("Tab");
  await page.keyboard.press("Control+S");
  await page.locator(".tab.active:not(.dirty)").waitFor();

  for (const state of ["off", "ready"]) {
    await status.click();
    await statusIs(state);
    said.push(await status.getAttribute("aria-label"));
  }
  return { typed, ghost: text, status: said };
}

/** Ctrl+P: opens a file by its name, or goes to `:line:column`. */
async function quickOpen(what) {
  await page.keyboard.press("Control+P");
  const input = page.locator(".quick-input-widget input[type=text]");
  await input.fill(what);
  await page.locator(".quick-input-list .monaco-list-row").first().waitFor();
  await input.press("Enter");
  await page.locator(".quick-input-widget").waitFor({ state: "hidden" });
}

/** Whether the element shows up within `ms` milliseconds. */
async function appears(locator, ms) {
  try {
    await locator.first().waitFor({ timeout: ms });
    return true;
  } catch {
    return false;
  }
}
