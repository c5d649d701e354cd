// The build step by step, the keys, and the start of the page.
let timer = null;

function showStep() {
  const part = D.story[step - 1];
  $("step").value = step;
  if (!part) {
    $("caption").textContent = "before the build";
    refresh();
    return;
  }
  const by = part.by ? "  by " + part.by.split(".").pop() : "";
  const what = (part.path || "model") + ": " + part.cls + by + "  " + duration(part.ms);
  $("caption").textContent = step + "/" + D.story.length + "  " + what;
  const up = parentOf(part.path);
  select(part.module ? part.path : byPath.has(up) ? up : "");
}

function move(to) {
  step = Math.max(0, Math.min(D.story.length, to));
  showStep();
}

function play() {
  if (timer) {
    clearInterval(timer);
    timer = null;
  } else {
    if (step >= D.story.length) step = 0;
    timer = setInterval(() => {
      move(step + 1);
      if (step >= D.story.length) play();
    }, 180);
  }
  $("play").textContent = timer ? "Pause" : "Play";
}

// what a key does in the tree, by its name
function act(key) {
  const visible = nodes.map(node => node.path).filter(shown), i = visible.indexOf(selected);
  const inner = kids.get(selected), up = parentOf(selected);
  switch (key) {
    case "ArrowDown": case "j": return select(visible[Math.min(i + 1, visible.length - 1)]);
    case "ArrowUp": case "k": return select(visible[Math.max(i - 1, 0)]);
    case "ArrowRight":
      if (inner.length) open.has(selected) ? select(inner[0]) : toggle(selected, true);
      return;
    case "ArrowLeft":
      if (inner.length && open.has(selected) && selected !== "") toggle(selected, false);
      else if (up !== null) select(up);
      return;
    case "Home": return select(visible[0]);
    case "End": return select(visible[visible.length - 1]);
    case "/": return $("search").focus();
    case "]": return move(step + 1);
    case "[": return move(step - 1);
    case " ": return play();
    default: return false;  // not handled
  }
}

function searchKey(key) {
  if (key !== "Escape" && key !== "Enter") return;
  const hit = nodes.find(node => wanted && matches(node.path));
  $("search").value = wanted = "";
  if (key === "Enter" && hit) select(hit.path); else refresh();
  $("tree").focus();
}

document.addEventListener("keydown", event => {
  const { key, target } = event;
  if (target === $("search")) return searchKey(key);
  if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "INPUT") return;
  const pressed = target.tagName === "BUTTON" || target.getAttribute("role") === "button";
  if (pressed && (key === " " || key === "Enter")) return;
  if (act(key) !== false) event.preventDefault();
});
$("search").addEventListener("input", event => {
  wanted = event.target.value.trim().toLowerCase();
  refresh();
});
$("step").addEventListener("input", event => move(+event.target.value));
$("back").onclick = () => move(step - 1);
$("next").onclick = () => move(step + 1);
$("play").onclick = play;

$("title").textContent = D.title;
document.title = D.title + " - cupola explain";
$("summary").textContent = D.summary;
$("step").max = D.story.length;
$("step").value = step;  // after max, which would cut it
$("caption").textContent = D.story.length + " steps: press ▶ to follow the build";
if (!D.story.length) $("story").style.display = "none";
buildTree();
select("", false);
document.body.dataset.ready = "yes";
