"use strict";
// Texts are set with textContent, never as markup. The data is base64-encoded gzip.
(() => {
  const byId = (id) => document.getElementById(id);
  const RIGHT = 1, MALFORMED = 2, CUT = 4, TRUNCATED = 8;

  function make(tag, text, ...classes) {
    const element = document.createElement(tag);
    element.textContent = text;
    element.dir = "auto";
    element.classList.add(...classes);
    return element;
  }

  // Show the values of marks next to the pointer without a delay; without this script, the browser
  // shows them as native tooltips.
  const tip = byId("tip");
  for (const title of document.querySelectorAll(".plot .mark > title")) {
    title.parentNode.dataset.says = title.textContent;
    title.remove();
  }
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.(".plot .mark");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.says;
    const box = mark.getBoundingClientRect();
    const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 4)}px`;
  });

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function browse(runs) {
    const list = byId("list"), rows = byId("rows"), count = byId("count"), detail = byId("detail");
    const columns = byId("columns");
    const controls = Object.fromEntries(
      ["run", "lang", "before", "after", "show", "search"].map((id) => [id, byId(`filter-${id}`)]));
    let run, flags, kept = [], chosen = -1;

    function fill(select, names, value) {
      select.replaceChildren(...names.map((name, at) => {
        const option = make("option", name);
        option.value = String(at);
        return option;
      }));
      select.value = String(value);
    }

    function open(at) {
      run = runs[at];
      flags = run.flags.map((digits) => Uint8Array.from(digits, (digit) => parseInt(digit, 16)));
      fill(controls.lang, ["all", ...run.langs], 0);
      fill(controls.before, run.systems, run.baseline);
      fill(controls.after, run.systems, run.merge);
      controls.show.value = "changed";
      filter();
      if (kept.length) return;
      controls.show.value = "all";
      filter();
    }

    // One lowercase text per example, built by the first search.
    function haystack() {
      run.haystack ??= run.prompt.map((prompt, at) =>
        [run.id[at], prompt, run.gold[at], ...run.answers.map((texts) => texts[at])]
          .join("\n").toLowerCase());
      return run.haystack;
    }

    function tests() {
      const before = Number(controls.before.value), after = Number(controls.after.value);
      const was = flags[before], is = flags[after];
      const old = run.answers[before], now = run.answers[after];
      return {
        all: null,
        changed: (at) => old[at] !== now[at],
        unchanged: (at) => old[at] === now[at],
        right: (at) => is[at] & RIGHT,
        wrong: (at) => !(is[at] & RIGHT),
        fixed: (at) => !(was[at] & RIGHT) && is[at] & RIGHT,
        broken: (at) => was[at] & RIGHT && !(is[at] & RIGHT),
        malformed: (at) => is[at] & MALFORMED,
      }[controls.show.value];
    }

    function filter() {
      const started = performance.now();
      const lang = Number(controls.lang.value) - 1, test = tests();
      const wanted = controls.search.value.trim().toLowerCase();
      const texts = wanted ? haystack() : null;
      kept = [];
      for (let at = 0; at < run.id.length; at++) {
        if (lang >= 0 && run.lang[at] !== lang) continue;
        if (test && !test(at)) continue;
        if (texts && !texts[at].includes(wanted)) continue;
        kept.push(at);
      }
      const sides = ["before", "after"].map((side) => Number(controls[side].value));
      const [was, is] = sides.map((system) =>
        kept.reduce((sum, at) => sum + (flags[system][at] & RIGHT), 0).toLocaleString("en"));
      count.textContent = `${kept.length.toLocaleString("en")} of ` +
        `${run.id.length.toLocaleString("en")} examples, ${was} right before, ${is} right after`;
      columns.replaceChildren(...["", "prompt", ...sides.map((system) => run.systems[system])]
        .map((name) => make("span", name)));
      chosen = -1;
      detail.replaceChildren();
      list.scrollTop = 0;
      draw();
      document.body.dataset.filterMs = (performance.now() - started).toFixed(1);
    }

    // Cut texts to what fits in a row: the layout of a million characters takes a second.
    const brief = (text, ...classes) => make("span", text.slice(0, 400), ...classes);

    function answer(system, at, ...classes) {
      const mark = flags[system][at] & RIGHT ? "right" : "wrong";
      return brief(run.answers[system][at], mark, ...classes);
    }

    function draw() {
      const height = rowHeight();
      rows.style.height = `${kept.length * height}px`;
      const first = Math.max(0, Math.floor(list.scrollTop / height) - 4);
      const last = Math.min(kept.length, first + Math.ceil(list.clientHeight / height) + 8);
      const before = Number(controls.before.value), after = Number(controls.after.value);
      rows.replaceChildren();
      for (let place = first; place < last; place++) {
        const at = kept[place], row = make("div", "", "row");
        row.id = `row-${place}`;
        row.dataset.place = String(place);
        row.setAttribute("role", "option");
        row.setAttribute("aria-setsize", String(kept.length));
        row.setAttribute("aria-posinset", String(place + 1));
        row.setAttribute("aria-selected", String(place === chosen));
        row.style.top = `${place * height}px`;
        row.dir = "ltr";
        row.append(
          make("span", run.langs[run.lang[at]], "key"), brief(run.prompt[at]),
          answer(before, at, "before"), answer(after, at));
        rows.append(row);
      }
      if (chosen >= first && chosen < last) list.setAttribute("aria-activedescendant", `row-${chosen}`);
      else list.removeAttribute("aria-activedescendant");
    }

    function rowHeight() {
      const probe = make("div", "", "row");
      rows.append(probe);
      const height = probe.offsetHeight || 56;
      probe.remove();
      return height;
    }

    function choose(place) {
      if (!kept.length) return;
      chosen = Math.max(0, Math.min(kept.length - 1, place));
      const height = rowHeight(), top = chosen * height;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + height > list.scrollTop + list.clientHeight)
        list.scrollTop = top + height - list.clientHeight;
      draw();
      show(kept[chosen]);
    }

    function show(at) {
      const parts = make("dl", "");
      const truncated = flags.some((of) => of[at] & TRUNCATED) ? [["cut to fit the model"]] : [];
      const add = (term, text, flagged, ...classes) => {
        const name = make("dt", term);
        flagged.forEach(([label]) => name.append(make("span", label, "flag")));
        parts.append(name, make("dd", text, ...classes));
      };
      add(`prompt ${run.id[at]}, ${run.langs[run.lang[at]]}`, run.prompt[at], truncated);
      add("expected", run.gold[at], []);
      run.systems.forEach((system, number) => {
        const of = flags[number][at];
        const labels = [[MALFORMED, "unreadable in part"], [CUT, "cut at the length limit"]]
          .filter(([flag]) => of & flag).map(([, label]) => [label]);
        add(system, run.answers[number][at], labels, of & RIGHT ? "right" : "wrong");
      });
      detail.replaceChildren(parts);
    }

    const steps = () => Math.max(1, Math.floor(list.clientHeight / rowHeight()) - 1);
    const moves = {
      ArrowDown: () => chosen + 1,
      ArrowUp: () => chosen - 1,
      PageDown: () => chosen + steps(),
      PageUp: () => chosen - steps(),
      Home: () => 0,
      End: () => kept.length - 1,
    };
    list.addEventListener("keydown", (event) => {
      const move = moves[event.key];
      if (!move) return;
      event.preventDefault();
      choose(move());
    });
    list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) choose(Number(row.dataset.place));
    });
    let drawn = false;
    list.addEventListener("scroll", () => {
      if (drawn) return;
      drawn = true;
      requestAnimationFrame(() => { drawn = false; draw(); });
    });
    addEventListener("resize", draw);
    let waiting;
    controls.search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 120);
    });
    for (const id of ["lang", "before", "after", "show"])
      controls[id].addEventListener("change", filter);
    controls.run.addEventListener("change", () => open(Number(controls.run.value)));
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    fill(controls.run, runs.map((one) => one.name), 0);
    byId("run-label").hidden = runs.length < 2;
    byId("browser").hidden = false;
    open(0);
  }

  const data = byId("data");
  if (data) {
    const started = performance.now();
    unpack(data.textContent).then((runs) => {
      data.remove();
      browse(runs);
      document.body.dataset.loadMs = (performance.now() - started).toFixed(1);
    });
  }
})();
