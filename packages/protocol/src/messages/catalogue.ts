/**
 * Every authenticated message of the protocol, for what must go through all of them: pages, vectors, `verify FILE`.
 */
import type { MessageType } from '../message.ts';
import { ATTESTATION } from './attestation.ts';
import { BATCH_STATISTICS } from './batch-statistics.ts';
import { CONFIRMATION } from './confirmation.ts';
import { DEVICE_CERTIFICATE, ENROLMENT_REQUEST } from './enrolment.ts';
import { FINAL_STATEMENT } from './final-statement.ts';
import { FUNDS_GRANT, FUNDS_REQUEST } from './funds.ts';
import { CREDIT_GRANT, DISCOUNT_GRANT } from './grant.ts';
import { GRANTING_CERTIFICATE } from './granting-certificate.ts';
import { KEY_ROTATION, ROTATION_REQUEST } from './key-rotation.ts';
import { POLICY, SIGNED_TIME, SUSPENSION } from './policy.ts';
import { ROLE_CERTIFICATE } from './role-certificate.ts';

export const MESSAGES: readonly MessageType<unknown>[] = [
  BATCH_STATISTICS,
  KEY_ROTATION,
  CONFIRMATION,
  ATTESTATION,
  ENROLMENT_REQUEST,
  ROTATION_REQUEST,
  DEVICE_CERTIFICATE,
  FUNDS_REQUEST,
  FUNDS_GRANT,
  POLICY,
  SIGNED_TIME,
  SUSPENSION,
  DISCOUNT_GRANT,
  CREDIT_GRANT,
  FINAL_STATEMENT,
  ROLE_CERTIFICATE,
  GRANTING_CERTIFICATE,
];
