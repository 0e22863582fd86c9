"use strict";
// Charts of a report. Series differ by dash and brightness, so that they can be told apart in grey.
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const INK = dark ? ["#e8e8e8", "#7cb7ff", "#ffb86b", "#b6e3a8", "#d7a8ff", "#9aa0a6"]
                 : ["#1a1a1a", "#0b62c4", "#b35c00", "#2f7d32", "#7b2fb5", "#80868b"];
const DASH = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 8], [1, 6]];
const LINES = dark ? "#444" : "#ddd";

const WHOLE = [1, 2, 5].flatMap(n => [n, 10 * n, 100 * n, 1000 * n]).sort((a, b) => a - b);

function width(place) { return Math.max(240, place.clientWidth); }

function draw(place, chart) {
  place.textContent = "";
  const title = document.createElement("h3");
  title.textContent = chart.title;
  place.append(title);
  const axis = { stroke: INK[0], grid: { stroke: LINES, width: 1 }, ticks: { stroke: LINES } };
  const options = {
    width: width(place),
    height: 240,
    cursor: { drag: { x: true, y: false } },
    scales: { x: { time: false }, y: { distr: chart.log ? 3 : 1 } },
    axes: [{ ...axis, label: chart.x_label, labelSize: 18, size: 34, incrs: WHOLE }, { ...axis, size: 62,
      values: (_, ticks) => ticks.map(v => v === null ? "" : short(v)) }],
    series: [
      { label: chart.x_label },
      ...chart.series.map((series, i) => ({
        label: series.label,
        stroke: INK[i % INK.length],
        dash: DASH[i % DASH.length],
        width: 1.75,
        points: { show: chart.x.length < 40, size: 5 + 2 * (i % 3) },
        value: (_, v) => v === null || v === undefined ? "–" : short(v),
      })),
    ],
  };
  const made = new uPlot(options, [chart.x, ...chart.series.map(s => s.values)], place);
  new ResizeObserver(() => made.setSize({ width: width(place), height: 240 })).observe(place);
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

const data = JSON.parse(document.getElementById("data").textContent);
for (const place of document.querySelectorAll("[data-chart]")) {
  draw(place, data.charts[Number(place.dataset.chart)]);
}
for (const choice of document.querySelectorAll("select[data-choice]")) {
  const places = [...document.querySelectorAll(`[data-of="${choice.dataset.choice}"]`)];
  const show = () => places.forEach((place, i) => {
    const chart = data.choices[choice.dataset.choice][choice.value][i];
    place.hidden = !chart;
    if (chart) draw(place, chart);
  });
  choice.addEventListener("change", show);
  show();
}
document.documentElement.dataset.drawn = "yes";
