// Lights of the lanes as they come, and no second record of one press. The page works without it.
"use strict";
const lost = document.getElementById("link");
const litMs = Number(document.getElementById("lights").dataset.litMs);
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium", timeZone: "Asia/Ho_Chi_Minh" });

// A light that is old says nothing of who stands there now. An alert stays until the next verdict.
function fade(place, ms) {
  clearTimeout(place.fading);
  if (place.classList.contains("alert") || place.classList.contains("idle")) return;
  place.fading = setTimeout(() => {
    const words = document.createElement("b");
    words.textContent = "đang chờ";
    place.className = "light idle";
    place.replaceChildren("Làn " + place.id.slice("lane-".length) + ": ", words);
  }, ms);
}

function show(light) {
  const place = document.getElementById("lane-" + light.lane);
  if (!place) return;
  place.className = "light " + light.verdict;
  const mark = { accepted: "✓", seen: "↺", refused: "✕", alert: "!" }[light.verdict];
  const head = document.createElement("b");
  head.textContent = mark + " " + light.text;
  const rest = ["lúc " + clock.format(new Date()), light.name, light.why, light.local ? "chốt tự kiểm tra, chưa có trả lời từ trung tâm" : ""];
  place.replaceChildren("Làn " + light.lane + ": ", head, " " + rest.filter(Boolean).join(" · "));
  fade(place, litMs);
}

for (const place of document.querySelectorAll(".light")) fade(place, Number(place.dataset.leftMs));

const source = new EventSource("/v1/lights");
source.onmessage = (event) => { lost.hidden = true; show(JSON.parse(event.data)); };
source.onopen = () => { lost.hidden = true; };
source.onerror = () => { lost.hidden = false; };
document.querySelector("form").addEventListener("submit", (event) => {
  event.target.querySelector("button").disabled = true;
});
