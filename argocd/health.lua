-- Health of Foreman's kinds for Argo CD: one text for each of
--   resource.customizations.health.foreman.llmkube.dev_Workload
--   resource.customizations.health.foreman.llmkube.dev_AgenticTask
--   resource.customizations.health.foreman.llmkube.dev_TaskQueue
--   resource.customizations.health.foreman.llmkube.dev_FleetNode
--   resource.customizations.health.foreman.llmkube.dev_Agent
-- A task whose gate failed is healthy: it did what it is for, and the message says what came of it. Only what Foreman
-- itself cannot do degrades an application.
local health = { status = "Progressing", message = "waiting for status" }
local status = obj.status
if status == nil then
  return health
end
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration < obj.metadata.generation then
  health.message = "the last change has not been seen yet"
  return health
end
if obj.kind == "Workload" or obj.kind == "AgenticTask" then
  health.status = "Healthy"
  health.message = status.message or status.phase or ""
  if status.verdict ~= nil then
    health.message = status.verdict .. ": " .. health.message
  end
  return health
end
if obj.kind == "FleetNode" then
  if status.phase == "Ready" or status.phase == "Draining" then
    health.status = "Healthy"
  end
  health.message = status.phase or ""
  return health
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    return { status = "Degraded", message = condition.message or condition.reason or "" }
  end
  if condition.type == "Ready" or condition.type == "Validated" then
    health.message = condition.message or ""
    if condition.status == "True" then
      health.status = "Healthy"
    elseif obj.kind == "Agent" then
      health.status = "Degraded"
    end
  end
end
return health
