// Shows what holds all the words, and opens what a link points at.
const entries = [...document.querySelectorAll("details")].map((entry) => [entry, entry.textContent.toLowerCase()]);
const sections = [...document.querySelectorAll("section")];

document.getElementById("search").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const [entry, text] of entries) entry.hidden = !words.every((word) => text.includes(word));
  for (const section of sections) section.hidden = !section.querySelector("details:not([hidden])");
});

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") {
    target.hidden = target.parentElement.hidden = false;
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();
