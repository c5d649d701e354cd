// The texts of the pages in the language of the browser; English where there is no translation.

const WORDS = navigator.language.toLowerCase().startsWith("zh") ? (await import("./zh.js")).default : {};

export function t(text, values = {}) {
  // The text in the browser's language, with {name} replaced by the values.
  return (WORDS[text] ?? text).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

function translate(root) {
  // What stands in the page's HTML.
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim();
    if (WORDS[text]) walker.currentNode.data = walker.currentNode.data.replace(text, WORDS[text]);
  }
  for (const name of ["aria-label", "placeholder", "title"]) {
    for (const each of root.querySelectorAll(`[${name}]`)) each.setAttribute(name, t(each.getAttribute(name)));
  }
}

if (Object.keys(WORDS).length) {
  document.documentElement.lang = "zh-CN";
  translate(document.body);
}
