// Looks at a report.html as people will: pictures of it, wide and narrow, light and dark, on paper, and what
// axe-core finds. Needs chromium, and `npm install puppeteer-core axe-core` in the folder it is run from:
//   node tools/look_at_report.mjs report.html OUTPUT_FOLDER
import { createRequire } from "node:module";
import { mkdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(resolve("package.json"));
const puppeteer = require("puppeteer-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf-8");
const [file, output] = process.argv.slice(2);
mkdirSync(output, { recursive: true });

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const page = await browser.newPage();
await page.setBypassCSP(true);
const requests = [];
page.on("request", (request) => requests.push(request.url().slice(0, 100)));
page.on("pageerror", (error) => console.log("error in the page:", error.message));
let bad = 0;
for (const width of [1280, 390]) {
  for (const scheme of ["light", "dark"]) {
    await page.setViewport({ width, height: 900 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.goto(pathToFileURL(resolve(file)).href);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.screenshot({ path: `${output}/${width}-${scheme}.png`, fullPage: true });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    console.log(`${width} ${scheme}: ${wide} px wide, ${violations.length} kinds of findings`);
    for (const { id, impact, nodes } of violations) {
      console.log(`  ${impact} ${id}: ${nodes.length}, for example ${nodes[0].html.slice(0, 160)}`);
    }
    bad += violations.length + (wide > width);
  }
}
await page.emulateMediaFeatures([]);
await page.pdf({ path: `${output}/print.pdf`, format: "A4", printBackground: true });
const elsewhere = requests.filter((url) => !url.startsWith("file:") && !url.startsWith("data:"));
console.log(`requests elsewhere: ${elsewhere.length ? elsewhere.join(" ") : "none"}`);
await browser.close();
process.exit(bad || elsewhere.length ? 1 : 0);
