// What every page does beyond being read: it follows the theme, copies, lists images to ignore, tells where one is.
"use strict";
const root = document.documentElement;
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Theme
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => root.dataset.theme || (prefersDark.matches ? "dark" : "light");

function followTheme() {
  const button = find("#theme");
  const other = theme() === "dark" ? "Light" : "Dark";
  button.textContent = other;
  button.setAttribute("aria-label", `${other} theme`);
  document.dispatchEvent(new Event("themechange"));
}
find("#theme").addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("catsdogs-theme", root.dataset.theme);
  } catch (error) { /* not remembered */ }
  followTheme();
});
prefersDark.addEventListener("change", followTheme);

// Copying
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    // No clipboard on pages from disk in some browsers.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
for (const button of all("[data-copy]")) {
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(button.dataset.copy).textContent);
    button.textContent = done ? "Copied" : "Select it";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
    button.focus();
  });
}

// Images to ignore
const ignore = find("#ignore");
const boxes = all(".shot input[type=checkbox]");
function listIgnored() {
  if (!ignore) return;
  const before = JSON.parse(ignore.dataset.ignored);
  const selected = [...new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.id))];
  const list = [...new Set([...before, ...selected])];
  const kept = ignore.dataset.beside ? `, beside ${ignore.dataset.beside}` : "";
  find("#ignore-count").textContent = selected.length
    ? `${selected.length} ${selected.length === 1 ? "image" : "images"} selected${kept}.`
    : "Select images with a wrong label, to leave them out of the next study.";
  find(".command", ignore).hidden = !selected.length;
  // In single quotes, because shells read brackets.
  find("#ignore-list").textContent = `'${`data.ignore=[${list.join(",")}]`.replaceAll("'", `'\\''`)}'`;
}
for (const box of boxes) {
  box.addEventListener("change", () => {
    // An image may be shown twice.
    for (const other of boxes) if (other.dataset.id === box.dataset.id) other.checked = box.checked;
    listIgnored();
  });
}
if (ignore) {
  find("#ignore-none").addEventListener("click", () => {
    for (const box of boxes) box.checked = false;
    listIgnored();
  });
}

// Contents: where the reader is
const links = new Map(all(".contents a").map((link) => [link.getAttribute("href").slice(1), link]));
const sections = all("main > section");
function mark() {
  const passed = sections.filter((section) => section.getBoundingClientRect().top < window.innerHeight / 3);
  const end = window.innerHeight + window.scrollY >= root.scrollHeight - 2;
  const here = end && window.scrollY > 0 ? sections.at(-1) : (window.scrollY > 0 && passed.at(-1)) || sections[0];
  for (const [id, link] of links) {
    if (id === here.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}
let waiting = false;
window.addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });

listIgnored();
followTheme();
mark();
