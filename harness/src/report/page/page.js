"use strict";
// Tables: a click on a column's head sorts its rows, or its groups of rows by their first one.
const number = text => {
  const found = text.replace("−", "-").match(/^[^\d-]{0,2}(-?\d+(\.\d+)?)/);
  return found ? parseFloat(found[1]) : null;
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x !== null ? 1 : -1;
  return a.localeCompare(b);
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const groups = [...table.tBodies];
    const parts = groups.length > 1 ? groups : [...groups[0].rows];
    const key = part => ((part.rows ? part.rows[0] : part).cells[column] || {}).textContent || "";
    const sign = order === "ascending" ? 1 : -1;
    const parent = groups.length > 1 ? table : groups[0];
    parts.sort((a, b) => sign * compare(key(a), key(b))).forEach(part => parent.append(part));
  }));
}

// Spotlight.
const holder = document.getElementById("data");
if (holder) {
  const data = JSON.parse(holder.textContent);
  const form = document.getElementById("filters").elements;
  const PAGE = 8;
  let page = 0;
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const option = (select, value, text) => {
    const element = make("option", "", text);
    element.value = value;
    select.append(element);
  };
  option(form.benchmark, "", "all");
  [...new Set(data.items.map(item => item.benchmark))].forEach(name => option(form.benchmark, name, name));
  option(form.outcome, "", "anything");
  option(form.outcome, "differ", "the arms shown disagree");
  data.outcomes.forEach(name => option(form.outcome, name, "an arm shown is " + name.replace("_", " ")));
  for (let i = 0; i < data.samples; i++) option(form.sample, i, i + 1 + " of " + data.samples);
  data.arms.forEach((arm, index) => {
    const label = make("label"), box = make("input");
    box.type = "checkbox"; box.name = "arm"; box.value = index; box.checked = index < 6;
    label.append(box, " " + arm.label);
    document.getElementById("arms").append(label);
  });
  const shownArms = () => data.arms.map((_, i) => i).filter(i => [...document.getElementsByName("arm")][i].checked);
  const answer = (item, arm) => (item.answers[arm] || [])[Number(form.sample.value)];
  const wanted = (item, arms) => {
    if (form.benchmark.value && item.benchmark !== form.benchmark.value) return false;
    const outcomes = arms.map(arm => answer(item, arm)).filter(Boolean).map(a => a.outcome);
    if (form.outcome.value === "differ") return new Set(outcomes.map(o => o === "correct")).size > 1;
    return !form.outcome.value || outcomes.includes(form.outcome.value);
  };
  const picture = (index, caption) => {
    const figure = make("figure"), image = make("img");
    image.src = "data:image/png;base64," + data.pictures[index];
    image.alt = caption;
    figure.append(image, make("figcaption", "", caption));
    return figure;
  };
  const pictures = (item, arms) => {
    const row = make("div", "pictures");
    item.pictures.forEach(index => row.append(picture(index, "the picture")));
    const seen = new Map();
    arms.forEach(arm => (item.corrupted[arm] || []).forEach(index => {
      if (!seen.has(index)) seen.set(index, []);
      seen.get(index).push(arm);
    }));
    const several = seen.size > item.pictures.length;
    for (const [index, users] of seen) {
      const whose = several ? " (" + users.map(arm => data.arms[arm].label).join(", ") + ")" : "";
      row.append(picture(index, "corrupted: " + data.arms[users[0]].corruption + whose));
    }
    return row;
  };
  const fixed = (x, digits) => x === null || x === undefined ? "–" : x.toFixed(digits);
  const signed = x => (x > 0 ? "+" : "") + x.toFixed(2);
  const facts = a => {
    const parts = [a.outcome.replace("_", " ")];
    if (a.extracted !== null) parts.push("answer: " + a.extracted);
    if (a.credit) {
      const { advantage, factor, shaped } = a.credit;
      parts.push(factor === 1 ? "advantage " + signed(shaped)
        : "advantage " + signed(advantage) + " × " + factor.toFixed(2) + " = " + signed(shaped));
      const kept = a.weight.filter(weight => weight > 0).length, sum = a.weight.reduce((x, y) => x + y, 0);
      const soft = Math.abs(sum - kept) > 0.01 ? ", mean weight " + (sum / a.weight.length).toFixed(2) : "";
      parts.push((kept === a.text.length ? "all tokens carry gradient" : kept + " of " + a.text.length + " tokens carry gradient") + soft);
    }
    return parts.join(" · ");
  };
  const completion = (item, arm) => {
    const a = answer(item, arm), box = make("div", "answer " + (a ? a.outcome : ""));
    box.append(make("h4", "", data.arms[arm].label));
    if (!a) { box.append(make("p", "facts idle", "not kept")); return box; }
    box.append(make("p", "facts", facts(a)));
    const tokens = make("p", "tokens"), detail = make("p", "detail");
    a.text.forEach((text, t) => {
      const weight = a.weight ? a.weight[t] : 0;
      const token = make("span", "tok" + (weight > 0 ? " kept" : ""), text);
      if (weight > 0 && weight < 1) token.style.setProperty("--weight", weight);
      const share = Math.min(1, Math.sqrt(Math.max(0, a.kl[t]) / data.strongest));
      if (share > 0.03) token.style.background = "rgba(var(--glow), " + (0.85 * share).toFixed(2) + ")";
      const words = JSON.stringify(text) + ": dependency " + fixed(a.kl[t], 3) + " nats, log-probability " + fixed(a.logp[t], 2) +
        " (" + fixed(a.corrupted_logp[t], 2) + " under the corrupted picture), entropy " + fixed(a.entropy[t], 2);
      token.title = words;
      token.addEventListener("click", () => {
        tokens.querySelectorAll(".chosen").forEach(other => other.classList.remove("chosen"));
        token.classList.add("chosen");
        detail.textContent = words;
      });
      tokens.append(token);
    });
    box.append(tokens, detail);
    return box;
  };
  const draw = () => {
    const arms = shownArms(), items = data.items.filter(item => wanted(item, arms));
    const pages = Math.max(1, Math.ceil(items.length / PAGE));
    page = Math.min(page, pages - 1);
    document.getElementById("count").textContent = items.length + " of " + data.items.length + " items";
    document.getElementById("at").textContent = "page " + (page + 1) + " of " + pages;
    document.getElementById("back").disabled = page === 0;
    document.getElementById("next").disabled = page === pages - 1;
    document.getElementById("items").replaceChildren(...items.slice(page * PAGE, (page + 1) * PAGE).map(item => {
      const card = make("article", "item");
      card.append(make("h3", "", item.benchmark + " · " + item.item));
      card.append(make("p", "problem", item.problem.replaceAll("<image>", "▣ ")));
      card.append(make("p", "note", "right answer: " + item.answer), pictures(item, arms));
      const answers = make("div", "answers");
      arms.forEach(arm => answers.append(completion(item, arm)));
      card.append(answers);
      return card;
    }));
  };
  document.getElementById("filters").addEventListener("change", () => { page = 0; draw(); });
  const turn = by => { page += by; draw(); document.getElementById("spotlight").scrollIntoView(); };
  document.getElementById("back").addEventListener("click", () => turn(-1));
  document.getElementById("next").addEventListener("click", () => turn(1));
  draw();
}
