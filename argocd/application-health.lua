-- An Application of Applications waits, wave by wave, for what Argo CD says of each of them.
local health = (obj.status or {}).health
if health == nil or health.status == nil then
  return { status = "Progressing", message = "has not been looked at yet" }
end
return { status = health.status, message = health.message }
