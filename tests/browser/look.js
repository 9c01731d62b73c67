// Opens a page in headless Chromium, in both themes and at each width; prints what happened as JSON.
// node look.js '{"url": …, "chromium": …, "shots": folder or null, "widths": […], "actions": […]}'
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const puppeteer = require("puppeteer-core");

const request = JSON.parse(process.argv[2]);
const AXE = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

async function see(browser, theme, width) {
  const page = await browser.newPage();
  const heard = [];
  page.on("console", (message) => heard.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => heard.push(`error: ${error.message}`));
  page.on("requestfailed", (failed) => heard.push(`failed: ${failed.url()}`));
  await page.setBypassCSP(false);
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([
    { name: "prefers-color-scheme", value: theme },
    { name: "prefers-reduced-motion", value: "reduce" },
  ]);
  await page.goto(request.url, { waitUntil: "load" });
  await drawn(page).catch((error) => heard.push(`error: ${error.message}`));
  const found = { theme, width, heard };
  found.scrollWidth = await page.evaluate(() => document.documentElement.scrollWidth);
  found.plots = await page.$$eval(".plot", (all) => all.map((plot) => ({
    name: plot.dataset.plot,
    drawn: plot.classList.contains("js-plotly-plot"),
    titles: [...plot.querySelectorAll(".xtitle, .ytitle, .xaxislayer-above .title")].map((t) => t.textContent),
  })));
  if (request.shots) {
    await page.screenshot({ path: path.join(request.shots, `${theme}-${width}.png`), fullPage: true });
  }
  for (const action of request.actions || []) {
    found.acted = (found.acted || []).concat([await page.evaluate(action)]);
  }
  // The page's policy lets no foreign script in: what judges it comes in by the debugger.
  await page.evaluate(AXE);
  const judged = await page.evaluate(() => window.axe.run(
    { exclude: [[".cartesianlayer"]] }, // thousands of points without text or role
    { resultTypes: ["violations"] },
  ));
  found.violations = judged.violations.map(({ id, impact, nodes }) => ({
    id, impact, nodes: nodes.slice(0, 3).map((node) => node.html.slice(0, 160)), count: nodes.length,
  }));
  if (theme === "dark" && request.shots) {
    const pdf = await page.pdf({ format: "A4", printBackground: true });
    fs.writeFileSync(path.join(request.shots, `print-${width}.pdf`), pdf);
  }
  await page.close();
  return found;
}

async function drawn(page) {
  await page.waitForFunction(
    () => [...document.querySelectorAll(".plot")].every((p) => p.classList.contains("js-plotly-plot")),
    { timeout: 60000 },
  );
  await new Promise((done) => setTimeout(done, 300));
}

(async () => {
  const browser = await puppeteer.launch({
    executablePath: request.chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"],
  });
  try {
    const all = [];
    for (const theme of ["light", "dark"]) {
      for (const width of request.widths) all.push(await see(browser, theme, width));
    }
    console.log(JSON.stringify(all));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
